// Backward of the L2 normalisation: dz = g / (r + epsilon) - x (x.g) / r,   r = |z|
//
// Reference: docs/math.md, "L2 normalisation".
//
//   g      [rows, cols]   gradient at x                                   read
//   x      [rows, cols]   the normalised rows                             read
//   norms  [rows]         r                                               read
//   dz     [rows, cols]   overwritten; exactly zero if the row is zero
//
// Grid: one workgroup per row.

struct Params {
    rows: u32,
    stride4: u32,   // vec4s in a row
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read> norms: array<f32>;
@group(0) @binding(4) var<storage, read_write> dz: array<vec4f>;

const LANES = 64u;
var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride4;
    var sum = 0.0;
    for (var k = lane; k < params.stride4; k += LANES) {
        sum += dot(x[start + k], g[start + k]);
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let r = norms[group.x];
    var along = 0.0;
    var scale = 0.0;
    if (r > 0.0) {
        along = partial[0] / r;
        scale = 1.0 / (r + params.epsilon);
    }
    for (var k = lane; k < params.stride4; k += LANES) {
        dz[start + k] = g[start + k] * scale - x[start + k] * along;
    }
}
