//! Fills memory for uploads on any thread, and uses it again after the copy.

use super::faults::lock;
use super::gpu::Gpu;
use super::staged::{STAGED, Staged};
use crate::{Error, Result};

impl Gpu {
    /// Whether uploads can be staged ahead. GL cannot: it has one context, which waits for work before it maps memory.
    pub(super) fn stages(&self) -> bool {
        self.info().backend != "gl"
    }

    /// Stages bytes (a multiple of 4) ahead of an upload, on any thread. `None` if the device gains nothing by it, or
    /// cannot do it. In that case the upload itself reports the reason.
    pub(super) fn stage_ahead(
        &self,
        len: usize,
        write: impl FnOnce(wgpu::WriteOnly<'_, [u8]>),
    ) -> Option<Staged> {
        let worth = self.stages() && (1..=STAGED).contains(&len);
        if worth { self.stage(len, write).ok() } else { None }
    }

    /// Stages bytes (a multiple of 4) in memory that the device copies from. `write` must write all of them.
    pub(super) fn stage(&self, len: usize, write: impl FnOnce(wgpu::WriteOnly<'_, [u8]>)) -> Result<Staged> {
        let buffer = match self.free(len) {
            Some(buffer) => buffer,
            None => self.within_memory("upload", len as u64, |device| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("upload"),
                    size: len as u64,
                    usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: true,
                })
            })?,
        };
        match buffer.slice(..len as u64).get_mapped_range_mut() {
            Ok(mut mapped) => write(mapped.slice(..)),
            Err(error) => {
                // A lost device cannot map memory. Its own error comes first, if there is one.
                self.poll(None)?;
                let advice = "resume from the last checkpoint, or choose another --device";
                return Err(Error::device(&self.info().name, "memory for an upload", error, advice));
            }
        }
        buffer.unmap();
        Ok(Staged { buffer, len })
    }

    /// The smallest free buffer that has room for `len` bytes and is at most twice as large.
    fn free(&self, len: usize) -> Option<wgpu::Buffer> {
        let mut free = lock(&self.0.free);
        let fits = |buffer: &wgpu::Buffer| (len..=2 * len).contains(&(buffer.size() as usize));
        let sizes = free.iter().enumerate().filter(|(_, buffer)| fits(buffer));
        let (at, _) = sizes.min_by_key(|(_, buffer)| buffer.size())?;
        Some(free.remove(at))
    }

    /// Frees a buffer for other uploads after the device has finished the submission that used it. If the free buffers
    /// exceed [`STAGED`] bytes, those that were free longest are destroyed.
    pub(super) fn recycle(&self, staged: Staged) {
        let (buffer, free) = (staged.buffer, self.0.free.clone());
        if buffer.size() > STAGED as u64 {
            return;
        }
        let mapped = buffer.clone();
        buffer.map_async(wgpu::MapMode::Write, .., move |result| {
            if result.is_err() {
                return;
            }
            let mut free = lock(&free);
            free.push(mapped);
            while free.iter().map(wgpu::Buffer::size).sum::<u64>() > STAGED as u64 {
                free.remove(0).destroy();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Buffer, Upload, every_adapter};

    #[test]
    #[ignore = "needs an adapter: run scripts/test"]
    fn an_upload_takes_the_memory_of_one_before() {
        for device in every_adapter() {
            let gpu = device.adapter().unwrap();
            let mut target = Buffer::<u32>::new(&device, "target", 300).unwrap();
            let mut send = |values: &[u32]| {
                let staged = device.stage(values)?;
                let buffer = staged.buffer().clone();
                target.upload(&device, Upload::Staged(staged)).unwrap();
                device.finish().unwrap();
                let found = device.wait(target.read(&device, 0..300)).unwrap();
                Some((buffer, found))
            };
            let numbers = |first: u32, count: u32| (first..first + count).collect::<Vec<_>>();
            let Some((first, found)) = send(&numbers(0, 300)) else {
                assert!(!gpu.stages(), "{device}");
                continue;
            };
            assert_eq!(found, numbers(0, 300), "{device}");
            // A shorter upload: the rest of the earlier values is not copied.
            let (second, found) = send(&numbers(1000, 200)).unwrap();
            assert_eq!(second, first, "{device}");
            assert_eq!(found, [numbers(1000, 200), numbers(200, 100)].concat(), "{device}");
            // A much shorter upload and a longer one get other memory.
            assert_ne!(send(&numbers(7, 10)).unwrap().0, first, "{device}");
            let longer = device.stage(&numbers(0, 400)).unwrap();
            assert_ne!(longer.buffer(), &first, "{device}");
            assert!(lock(&gpu.0.free).contains(&first), "{device}");
        }
    }
}
