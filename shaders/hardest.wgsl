// Hardest negative of every anchor, one direction: n_i = max_k M_ik,  h_i = the smallest k that attains it
//
// Reference: docs/math.md, "Mining".
//
// M is the similarity matrix S with its diagonal overwritten by -1. S comes in blocks. An anchor is a row of the block
// (images against texts) or a column (texts against images). Element (a, c) of a block is at
// a * anchor_stride + c * candidate_stride. A block that does not start at candidate 0 continues from the stored
// result.
// With `exclude_own` the diagonal is left out instead, as the hinge does. An anchor without a negative then keeps
// n = -1 and its own number as h.
// With `bounded`, only candidates after (bound_value, bound_index) in the order of mining count: falling similarity,
// then rising index. This finds the next hardest negative, round by round. With p as the value and no index, it finds
// the hardest negative below the positive.
// Tie rule: the lowest index wins. A lane walks in ascending order; lanes and blocks are compared by index.
//
//   similarity  block of S                                                        read
//   ids         [pairs] image of each pair; with `mask`, pairs of equal ids are not negatives   read
//   positive    [pairs] p_i = S_ii, written if the block holds the diagonal
//   value       [pairs] n_i
//   index       [pairs] h_i
//   bound_value, bound_index  [pairs]                                             read
//
// Grid: one workgroup per anchor of the block.

struct Params {
    anchors: u32,
    candidates: u32,
    anchor_stride: u32,
    candidate_stride: u32,
    anchor_offset: u32,      // pair number of the block's first anchor
    candidate_offset: u32,   // pair number of the block's first candidate
    mask: u32,
    exclude_own: u32,
    bounded: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> positive: array<f32>;
@group(0) @binding(4) var<storage, read_write> value: array<f32>;
@group(0) @binding(5) var<storage, read_write> index: array<u32>;
@group(0) @binding(6) var<storage, read> bound_value: array<f32>;
@group(0) @binding(7) var<storage, read> bound_index: array<u32>;

const LANES = 64u;
const NOTHING = -3.4e38;   // below every similarity
var<workgroup> best_value: array<f32, LANES>;
var<workgroup> best_index: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let anchor = group.x + params.anchor_offset;
    let start = group.x * params.anchor_stride;
    var n = NOTHING;
    var h = 0xffffffffu;
    var top = -NOTHING;
    var top_index = 0u;
    if (params.bounded != 0u) {
        top = bound_value[anchor];
        top_index = bound_index[anchor];
    }
    for (var c = lane; c < params.candidates; c += LANES) {
        let candidate = c + params.candidate_offset;
        var s = similarity[start + c * params.candidate_stride];
        if (candidate == anchor) {
            positive[anchor] = s;
            s = select(-1.0, NOTHING, params.exclude_own != 0u);
        } else if (params.mask != 0u) {
            if (ids[candidate] == ids[anchor]) {
                s = NOTHING;
            }
        }
        if (s > n && (s < top || (s == top && candidate > top_index))) {
            n = s;
            h = candidate;
        }
    }
    best_value[lane] = n;
    best_index[lane] = h;
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
    if (lane == 0u) {
        if (params.candidate_offset == 0u) {
            value[anchor] = -1.0;
            index[anchor] = anchor;
        }
        // Earlier blocks hold lower indices. So a later block must be strictly better, or be the first with a negative.
        let nothing_yet = index[anchor] == anchor && (params.exclude_own != 0u || params.candidate_offset == 0u);
        if (best_index[0] != 0xffffffffu && (nothing_yet || best_value[0] > value[anchor])) {
            value[anchor] = best_value[0];
            index[anchor] = best_index[0];
        }
    }
}
