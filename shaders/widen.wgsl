// f16 features, as they were cached, become f32: x_k = h_k, exactly, where h_k is finite
//
//   h  [count] two f16 in a u32, the first in the low bits     read
//   x  [count]                                                 overwritten
//
// Grid: a workgroup takes a share of the elements, in one piece as memory likes it.

struct Params {
    count4: u32,    // vec4s of x
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> h: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>;

const LANES = 64u;

// The exponent counts from 127 where it counted from 15. What is below all exponents is a count of 2^-24: never an f32 that is
// subnormal, which a device may take for 0.
fn wide(h: vec4u) -> vec4f {
    let magnitude = h & vec4u(0x7fffu);
    let normal = bitcast<vec4f>((magnitude << vec4u(13u)) + vec4u(112u << 23u));
    let positive = select(normal, vec4f(magnitude) * 5.9604644775390625e-8, magnitude < vec4u(0x400u));
    return bitcast<vec4f>(bitcast<vec4u>(positive) | ((h & vec4u(0x8000u)) << vec4u(16u)));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let share = (params.count4 + groups.x - 1u) / groups.x;
    let end = min((group.x + 1u) * share, params.count4);
    for (var k = group.x * share + lane; k < end; k += LANES) {
        let pairs = h[k];
        x[k] = wide(vec4u(pairs.x & 0xffffu, pairs.x >> 16u, pairs.y & 0xffffu, pairs.y >> 16u));
    }
}
