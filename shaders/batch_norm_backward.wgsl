// Backward of batch norm and relu in training, for each column
//
//   n = (x - mean) inverse     g = dy where y > 0, else 0     dshift = sum g     dscale = sum g n
//   dx = scale inverse (g - (dshift + n dscale) / count)
//
// Reference: docs/math.md, "Batch norm".
//
// The last row stands for `repeats` padding rows. They receive no gradient from above: the last row of dy is not read.
// The last row of dx is the sum over the padding rows.
//
//   x         [rows, cols]                                             read
//   y         [rows, cols]   of batch_norm.wgsl                        read
//   dy        [rows, cols]   gradient at y                             read
//   stats     [2, cols]      mean, inverse                             read
//   affine    [2, cols]      scale, shift                              read
//   dx        [rows, cols]                                             overwritten
//   d_affine  [2, cols]      dscale, dshift                            overwritten
//
// The code calls dx `d_x`, because DXC (the HLSL compiler) has a namespace named dx.
// Grid: one workgroup per vec4 of columns; its lanes share the rows.

struct Params {
    rows: u32,
    stride4: u32,        // vec4s in a row
    repeats: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> y: array<vec4f>;
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;
@group(0) @binding(4) var<storage, read> stats: array<vec4f>;
@group(0) @binding(5) var<storage, read> affine: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> d_x: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> d_affine: array<vec4f>;

const LANES = 64u;
var<workgroup> scales: array<vec4f, LANES>;
var<workgroup> shifts: array<vec4f, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let c = group.x;
    let count = f32(params.rows - 1u) + params.repeats;
    let mean = stats[c];
    let inverse = stats[params.stride4 + c];
    var d_scale = vec4f(0.0);
    var d_shift = vec4f(0.0);
    for (var i = lane; i + 1u < params.rows; i += LANES) {
        let at = i * params.stride4 + c;
        let g = select(vec4f(0.0), dy[at], y[at] > vec4f(0.0));
        d_shift += g;
        d_scale += g * ((x[at] - mean) * inverse);
    }
    scales[lane] = d_scale;
    shifts[lane] = d_shift;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            scales[lane] += scales[lane + half];
            shifts[lane] += shifts[lane + half];
        }
        workgroupBarrier();
    }
    d_scale = scales[0];
    d_shift = shifts[0];
    if (lane == 0u) {
        d_affine[c] = d_scale;
        d_affine[params.stride4 + c] = d_shift;
    }
    for (var i = lane; i < params.rows; i += LANES) {
        let at = i * params.stride4 + c;
        let last = i + 1u == params.rows;
        var g = vec4f(0.0);
        if (!last) {
            g = select(vec4f(0.0), dy[at], y[at] > vec4f(0.0));
        }
        let n = (x[at] - mean) * inverse;
        d_x[at] = affine[c] * inverse * (g - (d_shift + n * d_scale) / count) * select(1.0, params.repeats, last);
    }
}
