// Conversion of cached f16 features to f32: x_k = h_k, exact for every finite h_k
//
//   h  [count] two f16 per u32, the first in the low bits      read
//   x  [count]                                                 overwritten
//
// Grid: each workgroup takes one contiguous share of the elements.

struct Params {
    count4: u32,    // vec4s of x
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> h: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>;

const LANES = 64u;

// The bias of the exponent is 127 in f32 and 15 in f16. A subnormal f16 is its integer value times 2^-24. That product
// is a normal f32, so a device that flushes subnormals to 0 gives the same result.
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
