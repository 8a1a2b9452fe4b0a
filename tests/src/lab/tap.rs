//! All frames that pass an interface of a lab, as tcpdump would show them.

use std::io::ErrorKind;
use std::mem::zeroed;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::netlink::Netlink;
use super::{INTERFACE, Lab, Who};

/// How often the tap looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(20);
/// What is kept of a frame: no longer ones are of interest.
const LONGEST: usize = 256;

type Frames = Arc<Mutex<Vec<(Instant, Vec<u8>)>>>;

/// A packet socket at the interface of a place, read by a thread.
pub struct Tap {
    frames: Frames,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lab {
    /// Notes all frames that arrive at a place from now on, and those that it sends.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn tap(&self, who: Who) -> anyhow::Result<Tap> {
        let socket = self.enter(who, open)?.context("cannot listen to frames")?;
        let (frames, stop) = (Frames::default(), Arc::new(AtomicBool::new(false)));
        let (kept, end) = (Arc::clone(&frames), Arc::clone(&stop));
        let thread = thread::Builder::new().name("lab-tap".to_owned()).spawn(move || {
            let mut buffer = [0; LONGEST];
            while !end.load(Ordering::Relaxed) {
                if let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                    let frame = (Instant::now(), buffer[..length].to_vec());
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
                }
            }
        })?;
        Ok(Tap { frames, stop, thread: Some(thread) })
    }
}

impl Tap {
    /// Takes the frames that were noted since this was asked last, in the order in which they came.
    #[must_use]
    pub fn take(&self) -> Vec<(Instant, Vec<u8>)> {
        std::mem::take(&mut *self.frames.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes frames until `enough` says so of all that were taken.
    ///
    /// # Errors
    /// After `limit`, with how many frames there were.
    pub fn take_until(
        &self,
        limit: Duration,
        enough: impl Fn(&[(Instant, Vec<u8>)]) -> bool,
    ) -> anyhow::Result<Vec<(Instant, Vec<u8>)>> {
        let end = Instant::now() + limit;
        let mut all = Vec::new();
        loop {
            all.extend(self.take());
            if enough(&all) {
                return Ok(all);
            }
            ensure!(Instant::now() < end, "not in {limit:?}; there were {} frames", all.len());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open() -> anyhow::Result<Socket> {
    let index = i32::try_from(Netlink::open()?.index(INTERFACE)?)?;
    let protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
    // With protocol 0 nothing is received before it is bound to one interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec(), Some(Protocol::from(0)))?;
    // SAFETY: `storage` is large enough and aligned for every socket address, all-zero bytes are a valid
    // `sockaddr_ll`, and the length is the one of what was written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let ll = &mut *storage.cast::<libc::sockaddr_ll>();
            *ll = zeroed();
            ll.sll_family = u16::try_from(libc::AF_PACKET).map_err(|_| ErrorKind::InvalidInput)?;
            ll.sll_protocol = protocol;
            ll.sll_ifindex = index;
            *length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())
                .map_err(|_| ErrorKind::InvalidInput)?;
            Ok(())
        })
    }?;
    socket.bind(&address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}
