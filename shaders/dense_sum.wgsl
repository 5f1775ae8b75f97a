// Coefficient of the positive and loss of every anchor, summed over all its negatives
//
//   pull_a = sum over negatives k of scale T(p_a, s_ak) P+(p_a, s_ak)
//   loss_a = sum over negatives k of the loss of the triplet
//
// Reference: docs/math.md, "Several negatives". With con:con and a margin this is "hinge-sum" of docs/math.md, "Hinge".
//
// With `positive` = 1, the part that depends on p alone counts once: pull_a = scale P+(p_a), even without negatives. T,
// P+, the loss and the test that closes a triplet are those of weights.wgsl, with empty relative sets. dense_field.wgsl
// computes the coefficients of the negatives.
// Blocks and strides are those of hardest.wgsl. The sums of several blocks add up.
//
//   similarity    block of S                      read
//   ids           [pairs] as in hardest.wgsl      read
//   positive      [pairs] p                       read
//   coefficients  [pairs] (pull, 0)               overwritten by the first block, then added to
//   total_loss    [pairs]                         the same
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
    triplet: u32,    // from here on the members are those of weights.wgsl
    pair: u32,
    loss: u32,
    hinge: u32,
    exclude_own: u32,
    positive: u32,
    tau: f32,
    alpha: f32,
    beta: f32,
    lambda: f32,
    circle: f32,
    margin: f32,
    scale: f32,
    custom_params_0: f32,
    custom_params_1: f32,
    custom_params_2: f32,
    custom_params_3: f32,
    custom_params_4: f32,
    custom_params_5: f32,
    custom_params_6: f32,
    custom_params_7: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> positive: array<f32>;
@group(0) @binding(4) var<storage, read_write> coefficients: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> total_loss: array<f32>;

const LANES = 64u;
const LEFT_OUT = -3.0e38;   // similarities below are left out
var<workgroup> partial: array<vec2f, LANES>;

// The host replaces these sections by those of weights.wgsl. As written, they are con:con, with or without a margin.
// section numbers
// end of section

// section weights
fn weigh(open: f32, p: f32, n: f32, relative: vec2f) -> vec2f {
    return vec2f(open);
}
// end of section

// section triplet
fn weighed_triplet(p: f32, n: f32, r: vec2f) -> vec3f {
    let cost = n - p + select(0.0, params.margin, params.hinge != 0u);
    if (params.hinge != 0u && cost <= 0.0) {
        return vec3f(0.0);
    }
    return vec3f(weigh(params.scale, p, n, r), cost);
}

fn weighed_positive(p: f32) -> vec2f {
    return vec2f(0.0);
}
// end of section

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let anchor = group.x + params.anchor_offset;
    let start = group.x * params.anchor_stride;
    let p = positive[anchor];
    var sum = vec2f(0.0);
    for (var c = lane; c < params.candidates; c += LANES) {
        let candidate = c + params.candidate_offset;
        var negative = candidate != anchor;
        if (params.mask != 0u) {
            negative = ids[candidate] != ids[anchor];
        }
        let s = similarity[start + c * params.candidate_stride];
        if (negative && s >= LEFT_OUT) {
            sum += weighed_triplet(p, s, vec2f(0.0)).xz;
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
        var total = partial[0];
        if (params.candidate_offset != 0u) {
            total += vec2f(coefficients[anchor].x, total_loss[anchor]);
        } else {
            total += weighed_positive(p);
        }
        coefficients[anchor] = vec2f(total.x, 0.0);
        total_loss[anchor] = total.y;
    }
}
