// Squared norm in parts: parts_g = sum of a_k^2 over the elements of workgroup g. record.wgsl adds the parts.
//
//   a        [count]    read
//   parts    [groups]   overwritten, or added to when accumulate is set
//
// Grid: any number of workgroups; each takes one contiguous share of the elements.

struct Params {
    count4: u32,    // vec4s in a
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;

const LANES = 64u;
var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    let share = (params.count4 + groups.x - 1u) / groups.x;
    let end = min((group.x + 1u) * share, params.count4);
    for (var k = group.x * share + lane; k < end; k += LANES) {
        sum += dot(a[k], a[k]);
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
        var total = partial[0];
        if (params.accumulate != 0u) {
            total += parts[group.x];
        }
        parts[group.x] = total;
    }
}
