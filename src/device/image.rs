//! Images that hold operands, for kernels that read them from there ([`super::Access::Image`]).
//!
//! This helps one adapter: llvmpipe compiles loads from images to straight code, and loads from buffers to loops over
//! lanes. Nothing else in this folder knows the layout of an image.

use crate::Result;
use std::collections::HashMap;

/// Texels of 16 bytes per image row that hold values.
const IMAGE_ROW: u32 = 2048;
/// Unused texels at the end of each image row. Without them, rows of a matrix would lie a power of two apart in memory
/// and compete for the same places in a cache.
const IMAGE_GAP: u32 = 4;

/// An image whose texels are the vec4s of a region, in order.
#[derive(Clone)]
pub(super) struct Image {
    pub texture: wgpu::Texture,
    pub view: wgpu::TextureView,
}

/// One image per binding that a kernel reads from an image. Its size is the largest that was needed.
#[derive(Default)]
pub(super) struct Images(HashMap<u32, Image>);

/// Whether an image can hold `most` bytes, the size of the largest binding.
pub(super) fn images_hold(device: &wgpu::Device, most: usize) -> bool {
    let rows = device.limits().max_texture_dimension_2d;
    rows >= IMAGE_ROW + IMAGE_GAP && u64::from(rows) * 16 * u64::from(IMAGE_ROW) >= most as u64
}

impl Images {
    /// The image of a binding, with room for `bytes`, and the view of the smaller image that it replaces. `make` makes
    /// a texture from a label, a number of bytes and a descriptor.
    pub fn get(
        &mut self,
        device: &wgpu::Device,
        binding: u32,
        bytes: u64,
        make: impl FnOnce(&str, u64, &wgpu::TextureDescriptor) -> Result<wgpu::Texture>,
    ) -> Result<(Image, Option<wgpu::TextureView>)> {
        let rows = (bytes / 16).div_ceil(u64::from(IMAGE_ROW)) as u32;
        let smaller = match self.0.get(&binding) {
            Some(image) if image.texture.height() >= rows => return Ok((image.clone(), None)),
            smaller => smaller.map(|image| image.view.clone()),
        };
        // The height is a power of two, so that a growing image is made only a few times.
        let most = device.limits().max_texture_dimension_2d.max(rows);
        let height = rows.next_power_of_two().min(most);
        let size = wgpu::Extent3d { width: IMAGE_ROW + IMAGE_GAP, height, depth_or_array_layers: 1 };
        let label = format!("image of binding {binding}");
        let bytes = 16 * u64::from(size.width) * u64::from(height);
        let descriptor = wgpu::TextureDescriptor {
            label: Some(&label),
            size,
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba32Float,
            usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        };
        let texture = make(&label, bytes, &descriptor)?;
        let image = Image { view: texture.create_view(&Default::default()), texture };
        self.0.insert(binding, image.clone());
        Ok((image, smaller))
    }
}

/// The copy of a region into an image, for a kernel that reads it from there.
pub(super) struct ImageCopy {
    pub from: wgpu::Buffer,
    pub offset: u64,
    pub bytes: u64,
    pub to: wgpu::Texture,
}

impl ImageCopy {
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let texels = (self.bytes / 16) as u32;
        let (rows, rest) = (texels / IMAGE_ROW, texels % IMAGE_ROW);
        for (y, width, height) in [(0, IMAGE_ROW, rows), (rows, rest, 1)] {
            if width == 0 || height == 0 {
                continue;
            }
            let layout = wgpu::TexelCopyBufferLayout {
                offset: self.offset + 16 * u64::from(y) * u64::from(IMAGE_ROW),
                bytes_per_row: Some(16 * IMAGE_ROW),
                rows_per_image: None,
            };
            let mut target = self.to.as_image_copy();
            target.origin.y = y;
            encoder.copy_buffer_to_texture(
                wgpu::TexelCopyBufferInfo { buffer: &self.from, layout },
                target,
                wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
            );
        }
    }
}
