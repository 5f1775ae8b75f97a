// Backward pass of the gate h_k = min(max(a_k, 0), 6) b_k, in place:
//   a_k <- g_k b_k if 0 < a_k < 6, else 0        b_k <- g_k min(max(a_k, 0), 6)
//
// Reference: docs/math.md, "Gated encoder".
//
//   g  [rows, cols]   read; the gradient at h
//   a  [rows, cols]   updated; its gradient replaces it
//   b  [rows, cols]   updated; its gradient replaces it
//
// Grid: one workgroup per row.

struct Params {
    rows: u32,
    cols: u32,
    stride4: u32,   // vec4s in a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> a: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> b: array<vec4f>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride4;
    for (var k = lane; k < params.stride4; k += LANES) {
        let at = start + k;
        let column = 4u * k + vec4u(0u, 1u, 2u, 3u);
        let inside = column < vec4u(params.cols);
        let gate = a[at];
        let slope = select(vec4f(0.0), g[at] * b[at], (gate > vec4f(0.0)) & (gate < vec4f(6.0)));
        let open = clamp(gate, vec4f(0.0), vec4f(6.0));
        a[at] = select(vec4f(0.0), slope, inside);
        b[at] = select(vec4f(0.0), g[at] * open, inside);
    }
}
