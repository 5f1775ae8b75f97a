//! `wgoal doctor`: whether this machine computes correctly.

use super::{DeviceArg, print_json, say};
use clap::Args;
use serde::Serialize;
use std::ops::ControlFlow;
use wgoal::Result;
use wgoal::device::DeviceInfo;
use wgoal::doctor::{Finding, examine, unhealthy};

const EXAMPLES: &str = "\
Examples:
  wgoal doctor               check the device that training would use
  wgoal doctor --device gpu  check the GPU";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct DoctorArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    wgoal: &'a str,
    system: String,
    device: &'a DeviceInfo,
    passed: bool,
    findings: &'a [Finding],
}

impl DoctorArgs {
    pub fn run(self) -> Result<()> {
        let device = self.device.open()?;
        let mut findings = Vec::new();
        if !self.json {
            say("check                  largest error   allowed  verdict       ms")?;
        }
        let mut printed = Ok(());
        let passed = examine(&device, |finding| {
            if !self.json && printed.is_ok() {
                let Finding { name, error, allowed, ms, fault, .. } = finding;
                let verdict = if finding.passed() { "ok" } else { "WRONG" };
                let fault = fault.as_ref().map_or(String::new(), |fault| format!("\n    {fault}"));
                printed = say(format!("{name:22} {error:13.1e} {allowed:9.0e}  {verdict:7} {ms:8.1}{fault}"));
            }
            findings.push(finding.clone());
            // A reader who closed the pipe (`| head`) wants no more.
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        printed?;
        let failed: Vec<&Finding> = findings.iter().filter(|finding| !finding.passed()).collect();
        let (version, info) = (env!("CARGO_PKG_VERSION"), device.info());
        let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
        if self.json {
            print_json(&Report { wgoal: version, system, device: info, passed, findings: &findings })?;
        } else {
            say("\nFor a bug report:\n```text")?;
            say(format!("wgoal {version}, {system}"))?;
            say(format!("{}, {}, {:?}, driver {}", info.name, info.backend, info.kind, info.driver))?;
            if let Some(limits) = info.limits {
                say(format!("largest binding {} bytes, {limits:?}", info.max_binding))?;
            }
            say(format!("{} checks, {} failed", findings.len(), failed.len()))?;
            for Finding { name, error, allowed, fault, .. } in &failed {
                say(format!(
                    "{name}: error {error:.1e}, allowed {allowed:.0e} {}",
                    fault.as_deref().unwrap_or("")
                ))?;
            }
            say("```")?;
        }
        if passed { Ok(()) } else { Err(unhealthy(&device, failed.len())) }
    }
}
