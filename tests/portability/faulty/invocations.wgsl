// 512 invocations in a workgroup, twice what every adapter grants.

@group(0) @binding(0) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(32, 16)
fn main(@builtin(local_invocation_index) lane: u32) {
    y[lane] = 2.0 * y[lane];
}
