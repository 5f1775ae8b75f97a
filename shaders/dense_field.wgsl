// Field of a GOAL gradient over all negatives, off the diagonal; overwrites S
//
//   A_ij = scale ( share_it T P-(p_i, S_ij)  +  share_ti T P-(q_j, S_ij) ),  0 if i and j are not negatives of each other
//
// p and q are the positives of both directions. They are the same where an anchor has one positive.
//
// Reference: docs/math.md, "Several negatives". T, P- and the test that closes a triplet are those of weights.wgsl,
// with empty relative sets. compose.wgsl adds the diagonal, from the coefficients of dense_sum.wgsl.
//
//   ids       [pairs] as in hardest.wgsl                              read
//   positive_it, positive_ti  [pairs] p of both directions            read
//   field     [rows, pairs] S of rows row_offset..                    replaced by A
//
// Grid: x covers columns / LANES, y covers the rows of the block.

struct Params {
    rows: u32,
    pairs: u32,
    stride: u32,       // floats in a row of field
    row_offset: u32,
    mask: u32,
    share_it: f32,   // factor of each direction
    share_ti: f32,
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
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> positive_it: array<f32>;
@group(0) @binding(3) var<storage, read> positive_ti: array<f32>;
@group(0) @binding(4) var<storage, read_write> field: array<f32>;

const LANES = 64u;
const LEFT_OUT = -3.0e38;   // similarities below are left out

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
// end of section

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(global_invocation_id) id: vec3u) {
    let i = group.y + params.row_offset;
    let j = id.x;
    if (j >= params.pairs) {
        return;
    }
    let at = group.y * params.stride + j;
    let s = field[at];
    var negative = i != j;
    if (params.mask != 0u) {
        negative = ids[i] != ids[j];
    }
    var a = 0.0;
    if (negative && s >= LEFT_OUT) {
        a = params.share_it * weighed_triplet(positive_it[i], s, vec2f(0.0)).y
            + params.share_ti * weighed_triplet(positive_ti[j], s, vec2f(0.0)).y;
    }
    field[at] = a;
}
