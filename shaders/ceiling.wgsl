// Peak rate of an adapter: y_k = x_k after 4 * rounds times x <- factor * x + term
//
// With many rounds it measures arithmetic, because it works in registers only. With 0 rounds it measures a copy. `wgoal
// bench roofline` times both, and reports every other kernel as a share of them.
//
//   x   [count]    read
//   y   [count]    overwritten
//
// Each invocation handles four vec4s that are LANES apart. This gives 16 chains that do not wait for each other.
// A workgroup handles 4 * LANES consecutive vec4s, and count is a multiple of that.
// Grid: any number of workgroups; each takes one contiguous share of x.

struct Params {
    count4: u32,    // vec4s in x
    rounds: u32,
    factor: f32,
    term: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

const LANES = 64u;

// Unrolled by hand, because the counter of a loop would be measured too.
fn four_times(v: vec4f, factor: vec4f, term: vec4f) -> vec4f {
    return (((v * factor + term) * factor + term) * factor + term) * factor + term;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let factor = vec4f(params.factor);
    let term = vec4f(params.term);
    let blocks = params.count4 / (4u * LANES);
    let share = (blocks + groups.x - 1u) / groups.x;
    let end = min((group.x + 1u) * share, blocks);
    for (var block = group.x * share; block < end; block += 1u) {
        let k = block * 4u * LANES + lane;
        var v0 = x[k];
        var v1 = x[k + LANES];
        var v2 = x[k + 2u * LANES];
        var v3 = x[k + 3u * LANES];
        for (var round = 0u; round < params.rounds; round += 1u) {
            v0 = four_times(v0, factor, term);
            v1 = four_times(v1, factor, term);
            v2 = four_times(v2, factor, term);
            v3 = four_times(v3, factor, term);
        }
        y[k] = v0;
        y[k + LANES] = v1;
        y[k + 2u * LANES] = v2;
        y[k + 3u * LANES] = v3;
    }
}
