// Weighted sum into a buffer: out = weight x (+ out). Adds up the terms of an objective, and gradients from elsewhere.
//
//   x    [count]                                                                              read
//   out  [count] of a longer buffer, from vec4 at4 on; overwritten, or added to when accumulate is set
//
// Grid: each workgroup takes one contiguous share of the elements.

struct Params {
    count4: u32,       // vec4s
    at4: u32,          // position of the first vec4 in out
    accumulate: u32,
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let share = (params.count4 + groups.x - 1u) / groups.x;
    let end = min((group.x + 1u) * share, params.count4);
    for (var k = group.x * share + lane; k < end; k += LANES) {
        var sum = params.weight * x[k];
        if (params.accumulate != 0u) {
            sum += out[params.at4 + k];
        }
        out[params.at4 + k] = sum;
    }
}
