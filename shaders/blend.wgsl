// Moves a vector towards another: y <- y + rate (x - y). Averages the weights over the steps, with x the weights and y
// their average, and pulls weights towards their start, with x the start and y the weights.
//
//   x  [count]    read
//   y  [count]    updated
//
// Grid: each workgroup takes one contiguous share of the elements.
//
// Reference: docs/math.md, "Averaged weights" and "Pull towards the start".

struct Params {
    count4: u32,  // vec4s
    rate: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let share = (params.count4 + groups.x - 1u) / groups.x;
    let end = min((group.x + 1u) * share, params.count4);
    for (var k = group.x * share + lane; k < end; k += LANES) {
        y[k] += params.rate * (x[k] - y[k]);
    }
}
