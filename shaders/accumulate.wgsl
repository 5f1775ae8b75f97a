// Adds up what several parts of an objective, or somebody else, contribute: out = weight x (+ out)
//
//   x    [count]                                                                 read
//   out  [count] elements at.. of it; overwritten, or added to when accumulate
//
// Grid: a workgroup takes a share of the elements, in one piece as memory likes it.

struct Params {
    count4: u32,       // vec4s
    at4: u32,          // the first of them in out
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
