// The record of a training step, and the factor that clips its gradient
//
//   record  = (sum of the losses, mean p, mean n over both directions, |gradient|, 1 if clipped, 0, 0, 0)
//   factor  = min(1, max_norm / (|gradient| + 1e-6)), or 1 when max_norm is 0
//
// Reference: docs/math.md, "Clipping".
//
//   positive             [pairs] p                                        read
//   value_it, value_ti   [pairs] hardest negatives                        read
//   loss_it, loss_ti     [pairs] losses of the two directions             read
//   parts                [count] parts of the squared norm (sum_squares)  read
//   records              [steps, 8], row `step` overwritten
//   factor               [1] overwritten
//
// Grid: one workgroup.

struct Params {
    pairs: u32,
    count: u32,
    step: u32,
    max_norm: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> positive: array<f32>;
@group(0) @binding(2) var<storage, read> value_it: array<f32>;
@group(0) @binding(3) var<storage, read> value_ti: array<f32>;
@group(0) @binding(4) var<storage, read> loss_it: array<f32>;
@group(0) @binding(5) var<storage, read> loss_ti: array<f32>;
@group(0) @binding(6) var<storage, read> parts: array<f32>;
@group(0) @binding(7) var<storage, read_write> records: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> factor: array<f32>;

const LANES = 64u;
var<workgroup> partial: array<vec4f, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = vec4f(0.0);
    for (var i = lane; i < params.pairs; i += LANES) {
        sum += vec4f(loss_it[i] + loss_ti[i], positive[i], 0.5 * (value_it[i] + value_ti[i]), 0.0);
    }
    for (var i = lane; i < params.count; i += LANES) {
        sum.w += parts[i];
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
        let total = partial[0];
        let norm = sqrt(total.w);
        let pairs = f32(params.pairs);
        var clipped = 0.0;
        factor[0] = 1.0;
        if (params.max_norm > 0.0 && norm > params.max_norm) {
            clipped = 1.0;
            factor[0] = params.max_norm / (norm + 1e-6);
        }
        records[params.step * 2u] = vec4f(total.x, total.y / pairs, total.z / pairs, norm);
        records[params.step * 2u + 1u] = vec4f(clipped, 0.0, 0.0, 0.0);
    }
}
