// Cosine of angles in turns: z_k = cos(2 pi t_k)
//
// Reference: docs/math.md, "Random features".
//
// WGSL's own cos may be wrong by 2^-11, and differs between devices. Here |u| <= 1/2 is the distance from t to the
// nearest whole number, and cos(2 pi t) = sin(2 pi w) with w = 1/4 - |u|, which is a polynomial of w.
//
//   t  [rows, cols]   read
//   z  [rows, cols]   overwritten
//
// Grid: one workgroup per row.

struct Params {
    rows: u32,
    cols: u32,
    stride4: u32,   // vec4s in a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> t: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> z: array<vec4f>;

const LANES = 64u;

// The coefficients of sin(2 pi w) for |w| <= 1/4, with an error below 4e-9 before rounding.
fn wave(turns: vec4f) -> vec4f {
    let w = 0.25 - abs(turns - round(turns));
    let s = w * w;
    return w * ((((39.5367061 * s - 76.5497823) * s + 81.6010041) * s - 41.341655) * s + 6.28318516);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride4;
    for (var k = lane; k < params.stride4; k += LANES) {
        let column = 4u * k + vec4u(0u, 1u, 2u, 3u);
        z[start + k] = select(vec4f(0.0), wave(t[start + k]), column < vec4u(params.cols));
    }
}
