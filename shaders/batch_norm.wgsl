// Batch norm and relu for each column: y = max(0, scale (x - mean) / sqrt(variance + epsilon) + shift)
//
// Reference: docs/math.md, "Batch norm".
//
// The last row stands for the padding of the batch. Padding rows are all alike, so it counts `repeats` times. Training
// uses the mean and variance of the batch, and moves the running values towards them (the running variance towards the
// unbiased estimate). Evaluation uses the running values and does not change them.
//
//   x        [rows, cols]                                              read
//   affine   [2, cols]   scale, shift                                  read
//   running  [2, cols]   mean, variance                                updated
//   stats    [2, cols]   mean, 1 / sqrt(variance + epsilon) as used    overwritten
//   y        [rows, cols]                                              overwritten
//
// Grid: one workgroup per vec4 of columns; its lanes share the rows.

struct Params {
    rows: u32,
    stride4: u32,        // vec4s in a row
    repeats: f32,
    training: u32,
    momentum: f32,       // 0 in evaluation
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> affine: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> running: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

const LANES = 64u;
var<workgroup> partial: array<vec4f, LANES>;
var<workgroup> used_mean: vec4f;
var<workgroup> used_inverse: vec4f;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let c = group.x;
    let count = f32(params.rows - 1u) + params.repeats;
    var sum = vec4f(0.0);
    for (var i = lane; i < params.rows; i += LANES) {
        sum += x[i * params.stride4 + c] * select(1.0, params.repeats, i + 1u == params.rows);
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let batch_mean = partial[0] / count;
    workgroupBarrier();
    var squares = vec4f(0.0);
    for (var i = lane; i < params.rows; i += LANES) {
        let centred = x[i * params.stride4 + c] - batch_mean;
        squares += centred * centred * select(1.0, params.repeats, i + 1u == params.rows);
    }
    partial[lane] = squares;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        let squared = partial[0];
        let train = params.training != 0u;
        used_mean = select(running[c], batch_mean, train);
        used_inverse = 1.0 / sqrt(select(running[params.stride4 + c], squared / count, train) + params.epsilon);
        stats[c] = used_mean;
        stats[params.stride4 + c] = used_inverse;
        let unbiased = squared / max(count - 1.0, 1.0);
        running[c] += params.momentum * (batch_mean - running[c]);
        running[params.stride4 + c] += params.momentum * (unbiased - running[params.stride4 + c]);
    }
    workgroupBarrier();
    for (var i = lane; i < params.rows; i += LANES) {
        let at = i * params.stride4 + c;
        y[at] = max(affine[c] * ((x[at] - used_mean) * used_inverse) + affine[params.stride4 + c], vec4f(0.0));
    }
}
