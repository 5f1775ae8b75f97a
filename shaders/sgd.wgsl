// Stochastic gradient descent with momentum and L2 weight decay, in PyTorch's form
//
//   m <- momentum m + factor g + decay w
//   w <- w - lr m,  clamped to [low, high]
//
// With Nesterov's momentum, the second line is
//
//   w <- w - lr (factor g + decay w + momentum m),  clamped to [low, high]
//
// Reference: docs/math.md, "SGD".
//
//   g       [count] gradient before clipping      read
//   factor  [1] the clip factor                   read
//   w, m    [count] parameter and momentum        updated
//
// Grid: each workgroup takes one contiguous share of the elements.

struct Params {
    count4: u32,     // vec4s
    nesterov: u32,   // 1: Nesterov's momentum
    learning_rate: f32,
    momentum: f32,
    decay: f32,
    low: f32,
    high: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> factor: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let share = (params.count4 + groups.x - 1u) / groups.x;
    let end = min((group.x + 1u) * share, params.count4);
    for (var k = group.x * share + lane; k < end; k += LANES) {
        let momentum = params.momentum * m[k] + factor[0] * g[k] + params.decay * w[k];
        m[k] = momentum;
        let ahead = factor[0] * g[k] + params.decay * w[k] + params.momentum * momentum;
        let step = select(momentum, ahead, params.nesterov == 1u);
        w[k] = clamp(w[k] - params.learning_rate * step, vec4f(params.low), vec4f(params.high));
    }
}
