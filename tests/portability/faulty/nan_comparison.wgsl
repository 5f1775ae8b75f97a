// Recognises NaN by comparing a number with itself, which compilers may take to be true.

@group(0) @binding(0) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if (y[id.x] != y[id.x]) {
        y[id.x] = 0.0;
    }
}
