// Gaussian kernel from its exponents: z_k = exp(min(t_k, 0))
//
// Reference: docs/math.md, "Landmarks". Values of a kernel of unit rows are at most 1, so the exponent is at most 0 up to
// rounding.
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

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride4;
    for (var k = lane; k < params.stride4; k += LANES) {
        let column = 4u * k + vec4u(0u, 1u, 2u, 3u);
        let power = exp(clamp(t[start + k], vec4f(-87.0), vec4f(0.0)));
        z[start + k] = select(vec4f(0.0), power, column < vec4u(params.cols));
    }
}
