//! Work in its order: it is handed over, held until it is worth a submission, and submitted in bounded pieces.

use super::faults::{caught, lock};
use super::gpu::{Gpu, Memory};
use super::staged::{STAGED, Staged};
use super::work::{Item, PARAMS, TOGETHER, Upload, Work};
#[cfg(feature = "native")]
use super::work::{MAX_IN_FLIGHT, Submission};
use crate::Result;
#[cfg(feature = "native")]
use web_time::Instant;

impl Gpu {
    /// Overwrites bytes (a multiple of 4) after all work handed over earlier.
    pub(super) fn write(&self, memory: &Memory, offset: u64, bytes: &[u8]) -> Result<()> {
        if !self.stages() {
            self.flush()?;
        }
        if self.is_idle() {
            // wgpu runs this write before the next submission.
            self.0.queue.write_buffer(&memory.buffer, offset, bytes);
            return self.check();
        }
        self.upload(memory, offset, self.stage(bytes.len(), |mut to| to.copy_from_slice(bytes))?)
    }

    /// Whether no work waits for its submission.
    fn is_idle(&self) -> bool {
        #[cfg(not(feature = "native"))]
        if self.holds_back() {
            return false;
        }
        lock(&self.0.pending).items.is_empty()
    }

    /// Copies staged bytes to their place after all work handed over earlier.
    pub(super) fn upload(&self, memory: &Memory, offset: u64, from: Staged) -> Result<()> {
        let staged = from.len() as u64;
        let upload = Item::Upload(Upload { from, to: memory.buffer.clone(), offset });
        self.hand_over(Work { items: vec![upload], staged, ..Work::default() })
    }

    /// Adds work after all work handed over earlier. It is held until there is enough for a submission, or until the
    /// first of it has waited for `TOGETHER` seconds.
    pub(super) fn hand_over(&self, work: Work) -> Result<()> {
        let mut pending = lock(&self.0.pending);
        if (pending.params.len() + work.params.len()) as u64 > PARAMS {
            self.submit(std::mem::take(&mut pending))?;
        }
        pending.append(work);
        let enough = pending.cost >= lock(&self.0.flight).rate * TOGETHER
            || pending.staged >= STAGED as u64
            || (pending.cost > 0.0 && pending.begun.elapsed().as_secs_f64() >= TOGETHER);
        if enough { self.submit(std::mem::take(&mut pending)) } else { self.check() }
    }

    /// Submits all work handed over.
    pub(super) fn flush(&self) -> Result<()> {
        self.submit_with(Work::default())
    }

    /// Submits all work handed over, and more work without dispatches after it.
    pub(super) fn submit_with(&self, more: Work) -> Result<()> {
        let mut pending = lock(&self.0.pending);
        pending.append(more);
        self.submit(std::mem::take(&mut pending))
    }

    /// Gives work to the driver, and waits if too many submissions are in flight. The caller holds the lock of
    /// `pending`. This keeps submissions in order, and no other thread can write parameters between this write and its
    /// submission.
    #[cfg(feature = "native")]
    fn submit(&self, work: Work) -> Result<()> {
        if work.items.is_empty() {
            return self.check();
        }
        if lock(&self.0.profile).is_some() {
            return self.submit_timed(&work);
        }
        let cost = work.cost;
        let index = self.give(work);
        let oldest = {
            let mut flight = lock(&self.0.flight);
            flight.submissions.push_back(Submission { index, cost, begun: Instant::now() });
            if flight.submissions.len() > MAX_IN_FLIGHT { flight.submissions.pop_front() } else { None }
        };
        match oldest {
            Some(submission) => self.finish(submission),
            None => self.check(),
        }
    }

    /// Gives work to the driver.
    pub(super) fn give(&self, work: Work) -> wgpu::SubmissionIndex {
        let inner = &self.0;
        let mut encoder = inner.device.create_command_encoder(&Default::default());
        for items in work.items.chunk_by(|item, next| item.is_dispatch() && next.is_dispatch()) {
            if items[0].is_dispatch() {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                items.iter().for_each(|item| item.encode_dispatch(&mut pass));
            } else {
                items[0].encode_copy(&mut encoder);
            }
        }
        inner.queue.write_buffer(&inner.params, 0, &work.params);
        let index = inner.queue.submit([encoder.finish()]);
        for item in work.items {
            if let Item::Upload(Upload { from, .. }) = item {
                self.recycle(from);
            }
        }
        lock(&inner.flight).count += 1;
        index
    }

    /// Number of submissions of work so far.
    pub fn submissions(&self) -> u64 {
        lock(&self.0.flight).count
    }

    /// Waits for a submission and updates the estimate of the device's speed.
    #[cfg(feature = "native")]
    fn finish(&self, submission: Submission) -> Result<()> {
        self.poll(Some(submission.index))?;
        lock(&self.0.flight).measure(submission.cost, submission.begun);
        Ok(())
    }

    /// Waits for all work. In a browser it returns at once.
    pub(super) fn wait(&self) -> Result<()> {
        self.flush()?;
        self.poll(None)
    }

    /// Waits for all submissions, or for one.
    pub(super) fn poll(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        // A lost device finishes nothing.
        if lock(&self.0.faults).lost.is_some() {
            return self.check();
        }
        let poll = wgpu::PollType::Wait { submission_index, timeout: None };
        match caught(|| self.0.device.poll(poll)) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => lock(&self.0.faults).tell(error.to_string()),
            Err(panic) => drop(lock(&self.0.faults).lost.get_or_insert(panic)),
        }
        self.check()
    }
}

#[cfg(all(test, feature = "native"))]
mod tests {
    use crate::device::{Adapters, Buffer, Device, every_adapter};

    /// An adapter that checks everything and computes nothing.
    fn noop() -> Device {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop = wgpu::NoopBackendOptions::enabled();
        let instance = wgpu::Instance::new(descriptor);
        let adapters = pollster::block_on(Adapters::of(&instance, Some(crate::device::DeviceKind::Other)));
        adapters.open("gpu").unwrap()
    }

    #[test]
    fn a_fault_is_told_once_and_a_lost_device_stays_lost() {
        faults_and_loss([noop()]);
    }

    #[test]
    #[ignore = "needs an adapter: run scripts/test"]
    fn a_real_device_tells_a_fault_once_and_stays_lost() {
        faults_and_loss(every_adapter());
    }

    fn faults_and_loss(devices: impl IntoIterator<Item = Device>) {
        for device in devices {
            let gpu = device.adapter().unwrap();
            let work = || -> crate::Result<()> {
                let buffer = Buffer::from_slice(&device, "numbers", &[1u32, 2, 3, 4])?;
                device.wait(buffer.read(&device, 0..4)).map(drop)
            };
            work().unwrap();
            // The driver refuses a buffer without a usage, and nothing else is wrong.
            let descriptor = wgpu::BufferDescriptor {
                label: None,
                size: 4,
                usage: wgpu::BufferUsages::empty(),
                mapped_at_creation: false,
            };
            drop(gpu.0.device.create_buffer(&descriptor));
            let message = work().unwrap_err().to_string();
            assert!(message.contains("work without a driver error"), "{device}: {message}");
            work().unwrap_or_else(|error| panic!("{device}: {error}"));
            // Turning the profile on and off does not report the fault, and keeps it for the next call.
            drop(gpu.0.device.create_buffer(&descriptor));
            device.profile(true);
            device.profile(false);
            assert!(work().is_err(), "{device}");
            work().unwrap_or_else(|error| panic!("{device}: {error}"));
            gpu.destroy();
            for _ in 0..3 {
                assert!(work().is_err(), "{device} is lost");
            }
        }
    }
}
