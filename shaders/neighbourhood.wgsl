// Gradient of the distance between neighbourhoods before and after a head, row by row
//
//   p = softmax(a / t)    q = softmax(b / t)    m = (p + q) / 2    over the n columns of a row
//   JS = 1/2 sum of p log(p / m) + q log(q / m)                    Jensen-Shannon divergence
//   b <- weight q (g - sum of q g) / t                             g = 1/2 log(q / m)
//
// Reference: docs/math.md, "Neighbourhoods".
//
//   a  [rows, n]  similarities of the features                      read
//   b  [rows, n]  similarities of the embeddings                    overwritten with weight dJS/db
//
// The padding of a row is not read, and stays as it is.
//
// Grid: one workgroup per row.

struct Params {
    cols: u32,
    stride: u32,   // floats from one row to the next
    rate: f32,     // 1 / t
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> b: array<f32>;

const LANES = 64u;
var<workgroup> partial: array<vec2f, LANES>;

// 1/2 log(q / m), and 0 where q is
fn slope(p: f32, q: f32) -> f32 {
    if (q <= 0.0) {
        return 0.0;
    }
    return 0.5 * log(2.0 * q / (p + q));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride;
    var top = vec2f(-3.4e38);
    for (var k = lane; k < params.cols; k += LANES) {
        top = max(top, vec2f(a[start + k], b[start + k]));
    }
    partial[lane] = top;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] = max(partial[lane], partial[lane + half]);
        }
        workgroupBarrier();
    }
    top = partial[0];
    workgroupBarrier();
    var sum = vec2f(0.0);
    for (var k = lane; k < params.cols; k += LANES) {
        sum += exp(params.rate * (vec2f(a[start + k], b[start + k]) - top));
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let scale = 1.0 / partial[0];
    workgroupBarrier();
    var mean = 0.0;
    for (var k = lane; k < params.cols; k += LANES) {
        let own = scale * exp(params.rate * (vec2f(a[start + k], b[start + k]) - top));
        mean += own.y * slope(own.x, own.y);
    }
    partial[lane] = vec2f(mean, 0.0);
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    mean = partial[0].x;
    for (var k = lane; k < params.cols; k += LANES) {
        let own = scale * exp(params.rate * (vec2f(a[start + k], b[start + k]) - top));
        b[start + k] = params.weight * params.rate * own.y * (slope(own.x, own.y) - mean);
    }
}
