// Rank of every right candidate of every query; 0 is first
//
//   rank(r) = #{ c : s_c > s_r }  +  #{ c < r : s_c = s_r }
//
// Reference: docs/math.md, "Evaluation".
//
// Query q owns the entries offsets[q] .. offsets[q + 1] of `right` and of `ranks`. A pass over the candidates counts for
// four of its entries.
// Tie rule: among candidates of equal similarity, the lower index comes first.
//
//   similarity  [queries, candidates]                              read
//   offsets     [queries + 1]                                      read
//   right       [entries] the right candidates of every query      read
//   ranks       [entries]                                          overwritten
//
// Grid: one workgroup per query.

struct Params {
    queries: u32,
    candidates: u32,
    stride: u32,   // floats in a row of similarity
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
@group(0) @binding(3) var<storage, read> right: array<u32>;
@group(0) @binding(4) var<storage, read_write> ranks: array<u32>;

const LANES = 64u;
var<workgroup> before: array<vec4u, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride;
    let end = offsets[group.x + 1u];
    for (var entry = offsets[group.x]; entry < end; entry += 4u) {
        // Beyond the last entry, the last one is counted again.
        let at = min(vec4u(entry) + vec4u(0u, 1u, 2u, 3u), vec4u(end - 1u));
        let r = vec4u(right[at.x], right[at.y], right[at.z], right[at.w]);
        let first = r + vec4u(start);
        let s = vec4f(similarity[first.x], similarity[first.y], similarity[first.z], similarity[first.w]);
        var count = vec4u(0u);
        for (var c = lane; c < params.candidates; c += LANES) {
            let v = vec4f(similarity[start + c]);
            count += select(vec4u(0u), vec4u(1u), (v > s) | ((v == s) & (vec4u(c) < r)));
        }
        before[lane] = count;
        workgroupBarrier();
        for (var half = LANES / 2u; half > 0u; half /= 2u) {
            if (lane < half) {
                before[lane] += before[lane + half];
            }
            workgroupBarrier();
        }
        for (var k = lane; k < min(4u, end - entry); k += LANES) {
            ranks[entry + k] = before[0][k];
        }
        // The next pass overwrites what is read here.
        workgroupBarrier();
    }
}
