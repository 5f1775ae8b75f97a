// A barrier that only some lanes of the workgroup reach.

@group(0) @binding(0) var<storage, read_write> y: array<f32>;

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    partial[lane] = y[lane];
    if (lane < 32u) {
        workgroupBarrier();
        y[lane] = partial[lane] + partial[lane + 32u];
    }
}
