//! Times every dispatch of a GPU on its own, and waits for each.

use super::faults::lock;
use super::gpu::Gpu;
use super::work::{Dispatch, Item, Work};
use crate::Result;
use web_time::Instant;

impl Gpu {
    /// Runs `work` without timing it.
    pub(crate) fn unprofiled<T>(&self, work: impl FnOnce() -> T) -> T {
        let profile = lock(&self.0.profile).take();
        let result = work();
        *lock(&self.0.profile) = profile;
        result
    }

    /// Runs and times one dispatch after the other, including the copies to the images that it reads. With timestamps,
    /// the time lies between two of them. Without timestamps, each dispatch has its own submission, so its time
    /// includes the latency of a submission.
    pub(super) fn submit_timed(&self, work: &Work) -> Result<()> {
        let inner = &self.0;
        self.poll(None)?;
        inner.queue.write_buffer(&inner.params, 0, &work.params);
        inner.queue.submit([]);
        self.poll(None)?;
        // Each group is a dispatch and the copies before it. The last group may have copies only.
        let groups: Vec<_> = work.items.chunk_by(|item, _| !item.is_dispatch()).collect();
        let seconds = if inner.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            self.time_by_stamps(&groups)?
        } else {
            self.time_by_clock(&groups)?
        };
        if let Some(profile) = lock(&inner.profile).as_mut() {
            for (group, seconds) in groups.iter().zip(seconds) {
                if let Some(Item::Dispatch(Dispatch { what, cost, bytes, .. })) = group.last() {
                    profile.add(what, seconds, *cost, *bytes);
                }
            }
        }
        self.check()
    }

    fn time_by_stamps(&self, groups: &[&[Item]]) -> Result<Vec<f64>> {
        let inner = &self.0;
        let count = 2 * groups.len() as u32;
        let queries = inner.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let times = inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("profile"),
            size: 8 * u64::from(count),
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = inner.device.create_command_encoder(&Default::default());
        for (i, group) in (0..).zip(groups) {
            let (uploads, rest) = split(group);
            uploads.iter().for_each(|item| item.encode_copy(&mut encoder));
            let pass = |begin, end| wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: begin,
                    end_of_pass_write_index: end,
                }),
            };
            let (mut begin, end) = (Some(2 * i), Some(2 * i + 1));
            if rest.iter().any(|item| !item.is_dispatch()) {
                // Copies must lie between passes, so an empty pass before them takes the first timestamp.
                drop(encoder.begin_compute_pass(&pass(begin.take(), None)));
                rest.iter().for_each(|item| item.encode_copy(&mut encoder));
            }
            let mut pass = encoder.begin_compute_pass(&pass(begin, end));
            rest.iter().for_each(|item| item.encode_dispatch(&mut pass));
        }
        encoder.resolve_query_set(&queries, 0..count, &times, 0);
        inner.queue.submit([encoder.finish()]);
        let times = super::wait::wait(self.read_buffer(&times, 8 * count as usize))?;
        let times: Vec<u64> = bytemuck::pod_collect_to_vec(&times);
        let period = f64::from(inner.queue.get_timestamp_period()) * 1e-9;
        Ok(times.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period).collect())
    }

    fn time_by_clock(&self, groups: &[&[Item]]) -> Result<Vec<f64>> {
        let inner = &self.0;
        let time = |group: &&[Item]| {
            let (uploads, rest) = split(group);
            let mut encoder = inner.device.create_command_encoder(&Default::default());
            uploads.iter().for_each(|item| item.encode_copy(&mut encoder));
            inner.queue.submit([encoder.finish()]);
            self.poll(None)?;
            let start = Instant::now();
            let mut encoder = inner.device.create_command_encoder(&Default::default());
            rest.iter().for_each(|item| item.encode_copy(&mut encoder));
            let mut pass = encoder.begin_compute_pass(&Default::default());
            rest.iter().for_each(|item| item.encode_dispatch(&mut pass));
            drop(pass);
            inner.queue.submit([encoder.finish()]);
            self.poll(None)?;
            Ok(start.elapsed().as_secs_f64())
        };
        groups.iter().map(time).collect()
    }
}

/// Splits a group into its uploads, which come first, and the rest: image copies and the dispatch.
fn split(group: &[Item]) -> (&[Item], &[Item]) {
    group.split_at(group.partition_point(|item| matches!(item, Item::Upload(_))))
}
