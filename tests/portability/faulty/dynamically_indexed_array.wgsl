// A register tile kept in a local array that loops index: compilers move it to memory, and FXC may not compile it at all.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    var tile: array<f32, 8>;
    for (var k = 0u; k < arrayLength(&x); k += 1u) {
        tile[k % 8u] += x[k];
    }
    y[id.x] = tile[id.x % 8u];
}
