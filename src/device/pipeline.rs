//! What a device keeps per kernel: its pipelines, and the bindings used with them.

/// Name and value.
pub(super) type Constant = (String, String);

pub(super) struct Pipeline {
    pub layout: wgpu::BindGroupLayout,
    pub pipeline: wgpu::ComputePipeline,
}

/// The bindings of a kernel, parameters first.
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
