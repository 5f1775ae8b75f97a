//! What is kept of a kernel on a device: its pipelines, and what was bound to them.

/// Name and value.
pub(super) type Constant = (String, String);

pub(super) struct Pipeline {
    pub layout: wgpu::BindGroupLayout,
    pub pipeline: wgpu::ComputePipeline,
}

/// What is bound to a kernel; the parameters come first.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Bound {
    pub layout: wgpu::BindGroupLayout,
    pub parts: Vec<Part>,
}

#[derive(PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// With offset and size in bytes.
    Buffer(wgpu::Buffer, u64, u64),
    Image(wgpu::TextureView),
}
