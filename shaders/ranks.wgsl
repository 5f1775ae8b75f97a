// Rank of the best right candidate of every query; 0 is first
//
//   rank = #{ c : s_c > s }  +  #{ c < r : s_c = s }
//
// Reference: docs/math.md, "Evaluation".
//
// The right candidates are those with the id of the query. r is the one with the highest similarity s, the lowest index
// on ties. Tie rule: among candidates of equal similarity, the lower index comes first.
//
//   similarity     [queries, candidates]                     read
//   query_ids      [query_offset + queries]                  read
//   candidate_ids  [candidates]                              read
//   ranks          [query_offset + queries] overwritten; `candidates` if no candidate is right
//
// Grid: one workgroup per query.

struct Params {
    queries: u32,
    candidates: u32,
    stride: u32,         // floats in a row of similarity
    query_offset: u32,   // the block's first query
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> query_ids: array<u32>;
@group(0) @binding(3) var<storage, read> candidate_ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> ranks: array<u32>;

const LANES = 64u;
const NOTHING = -3.4e38;   // below every similarity
var<workgroup> best_value: array<f32, LANES>;
var<workgroup> best_index: array<u32, LANES>;
var<workgroup> before: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let query = group.x + params.query_offset;
    let start = group.x * params.stride;
    let id = query_ids[query];
    var s = NOTHING;
    var r = params.candidates;
    for (var c = lane; c < params.candidates; c += LANES) {
        if (candidate_ids[c] == id) {
            let v = similarity[start + c];
            if (v > s) {
                s = v;
                r = c;
            }
        }
    }
    best_value[lane] = s;
    best_index[lane] = r;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            let v = best_value[lane + half];
            let i = best_index[lane + half];
            if (v > best_value[lane] || (v == best_value[lane] && i < best_index[lane])) {
                best_value[lane] = v;
                best_index[lane] = i;
            }
        }
        workgroupBarrier();
    }
    s = best_value[0];
    r = best_index[0];
    var count = 0u;
    for (var c = lane; c < params.candidates; c += LANES) {
        let v = similarity[start + c];
        if (v > s || (v == s && c < r)) {
            count += 1u;
        }
    }
    before[lane] = count;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            before[lane] += before[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        ranks[query] = before[0];
    }
}
