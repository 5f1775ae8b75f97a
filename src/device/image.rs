//! Operands in images, for kernels that read them from there ([`super::Access::Image`]).
//!
//! One adapter gains by it: llvmpipe compiles loads from images to straight code, and loads from buffers to loops over lanes.
//! Nothing else in this folder knows how an image lies in memory.

use crate::Result;
use std::collections::HashMap;

/// Texels of 16 bytes in a row of the images that some kernels read their operands from.
const IMAGE_ROW: u32 = 2048;
/// Texels at the end of such a row that hold nothing: rows of a matrix would else lie a power of two apart in memory, where
/// a cache has few places for them.
const IMAGE_GAP: u32 = 4;

/// Texels are the vec4s of a region in their order.
#[derive(Clone)]
pub(super) struct Image {
    pub texture: wgpu::Texture,
    pub view: wgpu::TextureView,
}

/// An image for each binding that a kernel reads as one, as large as was ever needed.
#[derive(Default)]
pub(super) struct Images(HashMap<u32, Image>);

/// Whether an image can hold `most` bytes, those of a binding.
pub(super) fn images_hold(device: &wgpu::Device, most: usize) -> bool {
    let rows = device.limits().max_texture_dimension_2d;
    rows >= IMAGE_ROW + IMAGE_GAP && u64::from(rows) * 16 * u64::from(IMAGE_ROW) >= most as u64
}

impl Images {
    /// The image of a binding, large enough for so many bytes, and the smaller one whose place it took. `make` makes a texture,
    /// given its label and its bytes.
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
        // Doubled, so that it is not made often.
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

/// Of a region, for a kernel that reads it from an image.
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
