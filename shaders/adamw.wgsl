// AdamW with decoupled weight decay, in PyTorch's order of operations
//
//   g <- factor g
//   w <- (1 - lr decay) w
//   m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
//   w <- w - (lr / correction1) m / (sqrt(v) / sqrt(correction2) + epsilon)        correction = 1 - beta^t
//   w <- w clamped to [low, high]
//
// Reference: docs/math.md, "AdamW"; Loshchilov and Hutter (2019).
//
//   g        [count] gradient before clipping      read
//   factor   [1] the clip factor                   read
//   w, m, v  [count] parameter and moments         updated
//
// Grid: each workgroup takes one contiguous share of the elements.

struct Params {
    count4: u32,            // vec4s
    keep: f32,              // 1 - lr decay
    beta1: f32,
    rest1: f32,             // 1 - beta1, computed in f64 and rounded once
    beta2: f32,
    rest2: f32,             // 1 - beta2
    step_size: f32,         // lr / correction1
    root_correction2: f32,  // sqrt(correction2)
    epsilon: f32,
    low: f32,
    high: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> factor: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4f>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let share = (params.count4 + groups.x - 1u) / groups.x;
    let end = min((group.x + 1u) * share, params.count4);
    for (var k = group.x * share + lane; k < end; k += LANES) {
        let gradient = g[k] * factor[0];
        let first = params.beta1 * m[k] + params.rest1 * gradient;
        let second = params.beta2 * v[k] + params.rest2 * gradient * gradient;
        m[k] = first;
        v[k] = second;
        let step = params.step_size * first / (sqrt(second) / params.root_correction2 + params.epsilon);
        w[k] = clamp(params.keep * w[k] - step, vec4f(params.low), vec4f(params.high));
    }
}
