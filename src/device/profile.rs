//! What each kernel takes: a table that the device fills while it is asked to.

use super::gpu::{Gpu, lock};
#[cfg(feature = "native")]
use super::work::{Dispatch, Item, Work};
#[cfg(feature = "native")]
use crate::Result;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use web_time::Instant;

/// What the dispatches of one kernel took together.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct KernelTime {
    /// The kernel; of matrix products also the shape and which operand is transposed.
    pub name: String,
    /// Times it was dispatched.
    pub dispatches: usize,
    /// Seconds.
    pub seconds: f64,
    /// Floating-point operations, by the kernels' own estimates.
    pub flops: f64,
    /// Bytes of all that was bound, each counted once a dispatch.
    pub bytes: f64,
}

/// Times by kernel, in the order in which kernels first ran.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Profile(pub Vec<KernelTime>);

impl Profile {
    pub(super) fn add(&mut self, name: &str, seconds: f64, flops: f64, bytes: f64) {
        let at = self.0.iter().position(|kernel| kernel.name == name).unwrap_or_else(|| {
            self.0.push(KernelTime {
                name: name.into(),
                dispatches: 0,
                seconds: 0.0,
                flops: 0.0,
                bytes: 0.0,
            });
            self.0.len() - 1
        });
        let kernel = &mut self.0[at];
        kernel.dispatches += 1;
        kernel.seconds += seconds;
        kernel.flops += flops;
        kernel.bytes += bytes;
    }
}

/// Of the CPU, of whichever thread its kernels are called on.
static CPU: Mutex<Option<Profile>> = Mutex::new(None);
/// Whether there is one: asked by every kernel, and most often there is none.
static PROFILED: AtomicBool = AtomicBool::new(false);

fn of_cpu() -> MutexGuard<'static, Option<Profile>> {
    // A table is whole after every call, whatever its caller did then.
    CPU.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn on_cpu(on: bool) -> Profile {
    PROFILED.store(on, Ordering::Relaxed);
    std::mem::replace(&mut *of_cpu(), on.then(Profile::default)).unwrap_or_default()
}

/// Times a kernel's CPU branch until it is dropped, if the CPU is profiled.
pub(crate) struct Clock(Option<(Instant, KernelTime)>);

/// Starts the clock of a kernel.
pub(crate) fn clock(name: &str) -> Clock {
    clock_of(|| name.into(), 0.0, 0.0)
}

/// Starts the clock of a kernel that knows its work.
pub(crate) fn clock_of(name: impl FnOnce() -> String, flops: f64, bytes: f64) -> Clock {
    let on = PROFILED.load(Ordering::Relaxed);
    Clock(on.then(|| {
        let kernel = KernelTime { name: name(), dispatches: 1, seconds: 0.0, flops, bytes };
        (Instant::now(), kernel)
    }))
}

impl Drop for Clock {
    fn drop(&mut self) {
        let Some((start, KernelTime { name, flops, bytes, .. })) = self.0.take() else { return };
        let seconds = start.elapsed().as_secs_f64();
        if let Some(profile) = &mut *of_cpu() {
            profile.add(&name, seconds, flops, bytes);
        }
    }
}

impl Gpu {
    /// From now on, times every dispatch on its own, or no longer. What was timed since the last call comes back.
    pub(super) fn profile(&self, on: bool) -> Profile {
        // A fault is told by whatever comes next.
        if let Err(error) = self.flush() {
            lock(&self.0.faults).tell(error.found().into());
        }
        std::mem::replace(&mut *lock(&self.0.profile), on.then(Profile::default)).unwrap_or_default()
    }

    /// What `work` gives, none of it timed.
    #[cfg(feature = "native")]
    pub(crate) fn unprofiled<T>(&self, work: impl FnOnce() -> T) -> T {
        let profile = lock(&self.0.profile).take();
        let result = work();
        *lock(&self.0.profile) = profile;
        result
    }

    /// One dispatch after the other, copies to the images that it reads counted in: between two timestamps, where the adapter
    /// has them; else in a submission of its own, so that its time holds the latency of one.
    #[cfg(feature = "native")]
    pub(super) fn submit_timed(&self, work: &Work) -> Result<()> {
        let inner = &self.0;
        self.poll(None)?;
        inner.queue.write_buffer(&inner.params, 0, &work.params);
        inner.queue.submit([]);
        self.poll(None)?;
        // Each a dispatch and the copies before it; the last may be copies alone.
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

    #[cfg(feature = "native")]
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
            if rest.len() > 1 {
                // Copies lie between passes.
                drop(encoder.begin_compute_pass(&pass(begin.take(), None)));
                rest.iter().for_each(|item| item.encode_copy(&mut encoder));
            }
            let mut pass = encoder.begin_compute_pass(&pass(begin, end));
            rest.iter().for_each(|item| item.encode_dispatch(&mut pass));
        }
        encoder.resolve_query_set(&queries, 0..count, &times, 0);
        inner.queue.submit([encoder.finish()]);
        let times = super::wait::wait(self.read_buffer(&times, 0, 8 * count as usize))?;
        let times: Vec<u64> = bytemuck::pod_collect_to_vec(&times);
        let period = f64::from(inner.queue.get_timestamp_period()) * 1e-9;
        Ok(times.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period).collect())
    }

    #[cfg(feature = "native")]
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

/// Uploads, which come first, and what a dispatch consists of.
#[cfg(feature = "native")]
fn split(group: &[Item]) -> (&[Item], &[Item]) {
    group.split_at(group.partition_point(|item| matches!(item, Item::Upload(_))))
}
