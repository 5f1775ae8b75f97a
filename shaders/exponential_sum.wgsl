// Sum of exponentials over all negatives of every anchor, one direction
//
//   Sigma_a = sum over the negatives c of a of  e^(f(S_ac) - top_a)
//   f(s) = rate s,                            top = f(n)            multi-similarity, lifted structure
//   f(s) = rate max(s + margin, 0) (s - margin),    top = max(f(n), 0)    circle loss
//
// Reference: docs/math.md, "Multi-similarity and lifted structure" and "Circle loss"; the losses use this sum.
//
// n_a is the hardest negative (hardest.wgsl without the own pair), so every exponent is 0 or less. For the circle loss
// the f of another negative may exceed f(n), but not 0, if f(n) is below 0.
// With `mined`, only the negatives with S_ac + reach > (the lowest positive of a) count.
// Blocks and strides are those of hardest.wgsl. The sums of several blocks add up.
//
//   similarity  block of S                      read
//   ids         [pairs] as in hardest.wgsl      read
//   positive    [pairs] p                       read
//   value       [pairs] n                       read
//   lowest      [pairs] the lowest positive, p if there is one only    read
//   state       [pairs] (p, n, Sigma, lowest)   overwritten by the first block, then added to
//
// Grid: one workgroup per anchor of the block.

struct Params {
    anchors: u32,
    candidates: u32,
    anchor_stride: u32,
    candidate_stride: u32,
    anchor_offset: u32,
    candidate_offset: u32,
    mask: u32,
    circle: u32,
    mined: u32,
    rate: f32,
    margin: f32,
    reach: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> positive: array<f32>;
@group(0) @binding(4) var<storage, read> value: array<f32>;
@group(0) @binding(5) var<storage, read> lowest: array<f32>;
@group(0) @binding(6) var<storage, read_write> state: array<vec4f>;

const LANES = 64u;
const LEFT_OUT = -3.0e38;   // similarities below are left out
var<workgroup> partial: array<f32, LANES>;

// f(s) - top
fn exponent(s: f32, n: f32) -> f32 {
    if (params.circle == 0u) {
        return params.rate * (s - n);
    }
    let top = max(max(n + params.margin, 0.0) * (n - params.margin), 0.0);
    return params.rate * (max(s + params.margin, 0.0) * (s - params.margin) - top);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let anchor = group.x + params.anchor_offset;
    let start = group.x * params.anchor_stride;
    let n = value[anchor];
    let low = lowest[anchor];
    var sum = 0.0;
    for (var c = lane; c < params.candidates; c += LANES) {
        let candidate = c + params.candidate_offset;
        var negative = candidate != anchor;
        if (params.mask != 0u) {
            negative = ids[candidate] != ids[anchor];
        }
        let s = similarity[start + c * params.candidate_stride];
        if (negative && s >= LEFT_OUT && (params.mined == 0u || s + params.reach > low)) {
            sum += exp(max(exponent(s, n), -87.0));
        }
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        var earlier = 0.0;
        if (params.candidate_offset != 0u) {
            earlier = state[anchor].z;
        }
        state[anchor] = vec4f(positive[anchor], n, earlier + partial[0], low);
    }
}
