// Adds up what several parts of an objective, or somebody else, contribute: out = weight x (+ out)
//
//   x    [count]                                                                 read
//   out  [count] elements at.. of it; overwritten, or added to when accumulate
//
// Grid: workgroups stride through the elements.

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
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    for (var k = id.x; k < params.count4; k += groups.x * LANES) {
        var sum = params.weight * x[k];
        if (params.accumulate != 0u) {
            sum += out[params.at4 + k];
        }
        out[params.at4 + k] = sum;
    }
}
