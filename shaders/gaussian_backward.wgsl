// Gradient of the Gaussian kernel at its exponents: dt_k = z_k g_k
//
// Reference: docs/math.md, "Landmarks".
//
//   z   [rows, cols]   read; exp(t)
//   g   [rows, cols]   read; the gradient at z
//   dt  [rows, cols]   overwritten
//
// Grid: one workgroup per row.

struct Params {
    rows: u32,
    cols: u32,
    stride4: u32,   // vec4s in a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<vec4f>;
@group(0) @binding(2) var<storage, read> g: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> dt: array<vec4f>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride4;
    for (var k = lane; k < params.stride4; k += LANES) {
        let column = 4u * k + vec4u(0u, 1u, 2u, 3u);
        dt[start + k] = select(vec4f(0.0), z[start + k] * g[start + k], column < vec4u(params.cols));
    }
}
