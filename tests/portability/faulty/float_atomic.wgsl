// A sum by atomic addition of floats, which only some devices can do.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> sum: atomic<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    atomicAdd(&sum, x[id.x]);
}
