// L2 normalisation of rows: x = z / (|z| + epsilon)
//
// Reference: docs/math.md, "L2 normalisation".
//
//   z      [rows, cols]   read
//   x      [rows, cols]   overwritten; a zero row stays zero
//   norms  [rows]         overwritten with |z|
//
// Grid: one workgroup per row.

struct Params {
    rows: u32,
    stride4: u32,   // vec4s in a row
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> norms: array<f32>;

const LANES = 64u;
var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride4;
    var sum = 0.0;
    for (var k = lane; k < params.stride4; k += LANES) {
        let v = z[start + k];
        sum += dot(v, v);
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let r = sqrt(partial[0]);
    let scale = 1.0 / (r + params.epsilon);
    for (var k = lane; k < params.stride4; k += LANES) {
        x[start + k] = z[start + k] * scale;
    }
    if (lane == 0u) {
        norms[group.x] = r;
    }
}
