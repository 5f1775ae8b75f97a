// The gate of a perceptron: h_k = min(max(a_k, 0), 6) b_k
//
// Reference: docs/math.md, "Gated encoder".
//
//   a  [rows, cols]   read
//   b  [rows, cols]   read
//   h  [rows, cols]   overwritten
//
// Grid: one workgroup per row.

struct Params {
    rows: u32,
    cols: u32,
    stride4: u32,   // vec4s in a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> h: array<vec4f>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride4;
    for (var k = lane; k < params.stride4; k += LANES) {
        let column = 4u * k + vec4u(0u, 1u, 2u, 3u);
        let open = clamp(a[start + k], vec4f(0.0), vec4f(6.0));
        h[start + k] = select(vec4f(0.0), open * b[start + k], column < vec4u(params.cols));
    }
}
