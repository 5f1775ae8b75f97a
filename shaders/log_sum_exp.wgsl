// Sums of exponentials of the similarities over the temperature, for every anchor, one direction
//
//   x_k = (s_k - max s) / t      state = (max s,  Z = sum of e^x,  G = Z - m,  m = number of targets)
//   distance = sum of (max s - s) over the targets
//
// Reference: docs/math.md, "InfoNCE without overflow".
//
// The own pair is a target. With same_image = 1, all pairs of its image are targets. With same_image = 2, the other
// pairs of its image are left out altogether. G has a sum of its own: e^x - 1 for a target, e^x for a negative. Beside
// the 1 of a target, small e^x would be lost, and a small loss and its gradient with them.
// With same_image = 3, all pairs of its image are targets, state = (max s of the negatives, their sum of e^x, max s of the
// targets, their sum of e^x), and the distance is 0. Each of the two has x from its own maximum. Otherwise all e^x of the
// targets would underflow where a negative is far above them.
// Blocks and strides are those of hardest.wgsl. A later block continues from the stored result.
//
//   similarity   block of S                      read
//   ids          [pairs] image of each pair      read
//   temperature  [1] t                           read
//   state        [pairs]                         updated
//   distance     [pairs]                         updated
//
// Grid: one workgroup per anchor of the block.

struct Params {
    anchors: u32,
    candidates: u32,
    anchor_stride: u32,
    candidate_stride: u32,
    anchor_offset: u32,
    candidate_offset: u32,
    same_image: u32,   // 0 negatives, 1 targets, 2 left out, 3 targets whose probabilities add up
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> temperature: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> distance: array<f32>;

const LANES = 64u;
const LEFT_OUT = -3.0e38;   // similarities below are left out
const NOTHING = -3.4e38;   // below every similarity
const SUMMED = 3u;
var<workgroup> highest: array<vec2f, LANES>;   // of the negatives and of the targets
var<workgroup> partial: array<vec4f, LANES>;

// 0 negative, 1 target, 2 left out
fn role(anchor: u32, candidate: u32) -> u32 {
    if (candidate == anchor) {
        return 1u;
    }
    if (params.same_image == 0u) {
        return 0u;
    }
    let same = select(params.same_image, 1u, params.same_image == SUMMED);
    return select(0u, same, ids[candidate] == ids[anchor]);
}

// e^x - 1 for x <= 0. A series near 0 keeps the digits that the difference would lose.
fn exp_minus_one(x: f32) -> f32 {
    let series = x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0)))));
    return select(exp(x) - 1.0, series, x > -0.25);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let anchor = group.x + params.anchor_offset;
    let start = group.x * params.anchor_stride;
    let rate = 1.0 / temperature[0];
    var top = vec2f(NOTHING);
    for (var c = lane; c < params.candidates; c += LANES) {
        let part = role(anchor, c + params.candidate_offset);
        let s = similarity[start + c * params.candidate_stride];
        if (part == 0u) {
            top.x = max(top.x, s);
        }
        if (part == 1u) {
            top.y = max(top.y, s);
        }
    }
    highest[lane] = top;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            highest[lane] = max(highest[lane], highest[lane + half]);
        }
        workgroupBarrier();
    }
    // State and distance of the earlier blocks.
    let summed = params.same_image == SUMMED;
    var earlier = vec4f(NOTHING, 0.0, select(0.0, NOTHING, summed), 0.0);
    var away = 0.0;
    if (params.candidate_offset != 0u) {
        earlier = state[anchor];
        away = distance[anchor];
    }
    top = max(highest[0], vec2f(earlier.x, select(earlier.x, earlier.z, summed)));
    if (!summed) {
        top = vec2f(max(top.x, top.y));
    }
    var sum = vec4f(0.0);   // Z, G, m, distance; if summed, Z of the negatives in the first, of the targets in the third
    for (var c = lane; c < params.candidates; c += LANES) {
        let part = role(anchor, c + params.candidate_offset);
        let s = similarity[start + c * params.candidate_stride];
        if (s < LEFT_OUT) {
            continue;
        }
        let x = max(rate * (s - select(top.x, top.y, part == 1u)), -87.0);
        if (part == 0u) {
            sum += vec4f(exp(x), exp(x), 0.0, 0.0);
        }
        if (part == 1u && summed) {
            sum += vec4f(0.0, 0.0, exp(x), 0.0);
        } else if (part == 1u) {
            sum += vec4f(exp(x), exp_minus_one(x), 1.0, top.y - s);
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
        // Rescales the sums of the earlier blocks to the new maximum.
        let x = max(rate * (earlier.xz - top), vec2f(-87.0));
        if (summed) {
            let sums = earlier.yw * exp(x) + partial[0].xz;
            state[anchor] = vec4f(top.x, sums.x, top.y, sums.y);
            distance[anchor] = 0.0;
        } else {
            let gap = earlier.z * exp(x.x) + earlier.w * exp_minus_one(x.x);
            let sums = vec3f(earlier.y * exp(x.x), gap, earlier.w) + partial[0].xyz;
            state[anchor] = vec4f(top.x, sums);
            distance[anchor] = away + earlier.w * (top.x - earlier.x) + partial[0].w;
        }
    }
}
