// Lion with decoupled weight decay
//
//   g <- factor g
//   u <- beta1 m + (1 - beta1) g          m <- beta2 m + (1 - beta2) g
//   w <- (1 - lr decay) w - lr sign(u)    sign(0) = 0
//   w <- w clamped to [low, high]
//
// Reference: docs/math.md, "Lion"; Chen et al. (2023), algorithm 2.
//
//   g       [count] gradient before clipping  read
//   factor  [1] the clip factor               read
//   w, m    [count] parameter and momentum    updated
//
// Grid: each workgroup takes one contiguous share of the elements.

struct Params {
    count4: u32,  // vec4s
    keep: f32,    // 1 - lr decay
    learning_rate: f32,
    beta1: f32,
    rest1: f32,   // 1 - beta1, computed in f64 and rounded once
    beta2: f32,
    rest2: f32,   // 1 - beta2
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
        let gradient = g[k] * factor[0];
        let update = params.beta1 * m[k] + params.rest1 * gradient;
        m[k] = params.beta2 * m[k] + params.rest2 * gradient;
        let next = params.keep * w[k] - params.learning_rate * sign(update);
        w[k] = clamp(next, vec4f(params.low), vec4f(params.high));
    }
}
