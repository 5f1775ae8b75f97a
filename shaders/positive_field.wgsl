// Field of the pull on several positives; overwrites S
//
//   A_ij = -(pull_it_i dp_i/dS_ij + pull_ti_j dp_j/dS_ij)  where i and j have the same image, else 0
//
//   hardest   dp/ds_k = 1 at the k of the state, else 0        mean     dp/ds_k = 1 / m
//   log-sum   dp/ds_k = e^(f(s_k) - max f) / sum               circle   the same, times max(1 + margin - s_k, 0)
//
// Reference: docs/math.md, "Several positives". The states and f are those of positives.wgsl. The factor of the circle loss
// is P+ of a positive, held fixed in the gradient, as published; its sign is that of a pull.
//
//   ids                 [pairs] image of each pair                read
//   value_it, value_ti  [pairs] n of both directions              read
//   state_it, state_ti  [pairs] from positives.wgsl               read
//   pull_it, pull_ti    [pairs] (coefficient of p, unused)        read
//   field               [rows, pairs] S of rows row_offset..      replaced by A
//
// Grid: x covers columns / LANES, y covers the rows of the block.

struct Params {
    rows: u32,
    pairs: u32,
    stride: u32,       // floats in a row of field
    row_offset: u32,
    aggregate: u32,    // as in positives.wgsl
    mined: u32,
    rate: f32,
    margin: f32,
    reach: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> value_it: array<f32>;
@group(0) @binding(3) var<storage, read> value_ti: array<f32>;
@group(0) @binding(4) var<storage, read> state_it: array<vec4f>;
@group(0) @binding(5) var<storage, read> state_ti: array<vec4f>;
@group(0) @binding(6) var<storage, read> pull_it: array<vec2f>;
@group(0) @binding(7) var<storage, read> pull_ti: array<vec2f>;
@group(0) @binding(8) var<storage, read_write> field: array<f32>;

const LANES = 64u;
const LEFT_OUT = -3.0e38;   // similarities below are left out

// dp/ds of a candidate with the similarity s
fn share(s: f32, candidate: u32, n: f32, state: vec4f) -> f32 {
    if (params.mined != 0u && s >= n + params.reach) {
        return 0.0;
    }
    if (params.aggregate == 0u) {
        return select(0.0, 1.0, f32(candidate) == state.z);
    }
    if (params.aggregate == 1u) {
        return 1.0 / state.y;
    }
    let factor = max(1.0 + params.margin - s, 0.0);
    if (params.aggregate == 3u) {
        return factor * exp(max(params.rate * factor * (1.0 - params.margin - s) - state.z, -87.0)) / state.w;
    }
    return exp(max(-params.rate * s - state.z, -87.0)) / state.w;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(global_invocation_id) id: vec3u) {
    let i = group.y + params.row_offset;
    let j = id.x;
    if (j >= params.pairs) {
        return;
    }
    let at = group.y * params.stride + j;
    let s = field[at];
    var a = 0.0;
    if (ids[i] == ids[j] && s >= LEFT_OUT) {
        a = -(pull_it[i].x * share(s, j, value_it[i], state_it[i]) + pull_ti[j].x * share(s, i, value_ti[j], state_ti[j]));
    }
    field[at] = a;
}
