// 20 KiB of workgroup memory, 4 more than every adapter grants.

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

var<workgroup> tile: array<vec4f, 1280>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var k = lane; k < 1280u; k += 64u) {
        tile[k] = x[k];
    }
    workgroupBarrier();
    y[lane] = tile[1279u - lane];
}
