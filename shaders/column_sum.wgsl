// Sum over rows: y_k = sum_i a_ik. It gives the gradient of a bias.
//
//   a  [rows, cols]   read
//   y  [cols]         overwritten, or added to when accumulate is set
//
// Grid: one workgroup per vec4 of columns; its lanes share the rows.

struct Params {
    rows: u32,
    stride4: u32,   // vec4s in a row
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

const LANES = 64u;
var<workgroup> partial: array<vec4f, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    var sum = vec4f(0.0);
    for (var i = lane; i < params.rows; i += LANES) {
        sum += a[i * params.stride4 + group.x];
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        var total = partial[0];
        if (params.accumulate != 0u) {
            total += y[group.x];
        }
        y[group.x] = total;
    }
}
