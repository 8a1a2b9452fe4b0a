//! Addresses that the kernel takes away by itself, and the refreshes that keep them: rules R5 to R7 and
//! K5 against the real kernel.

mod net;

use std::time::{Duration, Instant};

use flip_core::{HookAction, HookCall, Lifetime, RefreshCall, Time};
use flip_systems::{Systems, clock};
use net::*;
use tokio::time::{sleep, timeout};

/// How late the kernel may be, at most.
const LATE: Duration = Duration::from_millis(1250);
/// How early: its timer has a fuzz of a fiftieth of a second.
const EARLY: Duration = Duration::from_millis(50);
const BOTH: [&str; 2] = [V4, V6];

fn lasting(seconds: u32) -> Lifetime {
    Lifetime { seconds, latest: None }
}

/// One that may be given for this long.
fn leased(seconds: u32, left: Duration) -> Lifetime {
    Lifetime { seconds, latest: Some(clock::now() + left) }
}

fn over(seconds: u32) -> Lifetime {
    Lifetime { seconds, latest: Some(Time::from_nanos(clock::now().as_nanos() - 1)) }
}

async fn bring(systems: &Systems, at: usize, lifetime: Lifetime) -> Result<(), String> {
    systems.run(HookCall { lifetime, ..call(at, HookAction::Alive) }).await
}

fn refresh(systems: &Systems, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
    systems.refresh(&RefreshCall { id: 1, system: 0, items: items.to_vec(), lifetime })
}

fn is_bound(address: &str) -> bool {
    !bound("v0", address).is_empty()
}

/// Waits until the kernel has taken it away.
async fn wait_gone(address: &str) -> Instant {
    while is_bound(address) {
        sleep(Duration::from_millis(5)).await;
    }
    Instant::now()
}

/// That no address was announced since, and none is within this time.
async fn assert_silent(wire: &mut Wire, address: &str, during: Duration) {
    let end = tokio::time::Instant::now() + during;
    while let Ok((_, frame)) = tokio::time::timeout_at(end, wire.next()).await {
        assert_ne!(announced(&frame).map(|a| a.to_string()).as_deref(), Some(address));
    }
}

#[test]
fn what_is_not_refreshed_ends_without_its_daemon() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &BOTH)).unwrap();
        let start = Instant::now();
        for at in 0..2 {
            bring(&systems, at, leased(1, LATE)).await.unwrap();
        }
        // As after SIGKILL: nobody takes anything down.
        drop(systems);
        for address in BOTH {
            let shown = &bound("v0", address)[0];
            assert_eq!(
                (&shown["valid_life_time"], &shown["deprecated"]),
                (&1.into(), &true.into()),
                "{shown}"
            );
        }
        for address in BOTH {
            let lasted = wait_gone(address).await - start;
            let valid = Duration::from_secs(1);
            assert!(lasted + EARLY >= valid && lasted <= valid + LATE, "{address} lasted {lasted:?}");
        }
    });
}

/// A hook asks first who has the address, which may take longer than the lifetime's last moment is away: then it gives
/// less, and the address goes when it should have gone.
#[test]
fn a_hook_that_asks_first_gives_what_is_left() {
    in_namespace(|| async {
        let mut config = config("v0", &BOTH);
        config.systems[0].config.insert("probe".to_owned(), 300.into());
        let systems = Systems::open(&config).unwrap();
        let left = Duration::from_millis(150);
        for (at, address) in BOTH.into_iter().enumerate() {
            let start = Instant::now();
            bring(&systems, at, leased(3, left)).await.unwrap();
            assert!(start.elapsed() > left, "it asked");
            assert!(wait_gone(address).await - start <= left + Duration::from_secs(3) + LATE, "{address}");
            assert_eq!(systems.drift().await, (item(at), false));
            // There is nothing left of this one.
            let error = bring(&systems, at, leased(1, left)).await.unwrap_err();
            assert!(error.contains("the lease of") && !is_bound(address), "{error}");
        }
    });
}

#[test]
fn a_refresh_keeps_it_and_is_nobodys_news() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &BOTH)).unwrap();
        for at in 0..2 {
            bring(&systems, at, leased(1, LATE)).await.unwrap();
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            assert_eq!(refresh(&systems, &[0, 1], leased(1, LATE)), [] as [usize; 0]);
            assert!(BOTH.iter().all(|a| is_bound(a)), "after {:?}", start.elapsed());
            // The monitor gets its turn.
            sleep(Duration::from_millis(200)).await;
        }
        timeout(Duration::from_millis(50), systems.drift()).await.expect_err("own refreshes are no drift");
        // Between the announcements that are due a second and five seconds after the beginning.
        let mut wire = Wire::tap("v1");
        assert_eq!(refresh(&systems, &[0, 1], leased(1, LATE)), [] as [usize; 0]);
        for address in BOTH {
            assert_silent(&mut wire, address, Duration::from_millis(300)).await;
        }
    });
}

#[test]
fn the_end_of_a_lifetime_is_drift() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &BOTH)).unwrap();
        for at in 0..2 {
            bring(&systems, at, lasting(1)).await.unwrap();
        }
        let mut gone = [systems.drift().await, systems.drift().await];
        gone.sort();
        assert_eq!(gone, [(item(0), false), (item(1), false)]);
        systems.run(call(0, HookAction::Announce)).await.unwrap_err();
    });
}

#[test]
fn a_refresh_after_the_end_brings_nothing_back() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &BOTH)).unwrap();
        for at in 0..2 {
            bring(&systems, at, leased(1, LATE)).await.unwrap();
        }
        // As after SIGSTOP: the kernel's notices and the announcements wait for this thread.
        std::thread::sleep(Duration::from_secs(1) + LATE);
        let mut wire = Wire::tap("v1");
        assert_eq!(refresh(&systems, &[0, 1], leased(2, LATE)), [0, 1]);
        for address in BOTH {
            assert!(!is_bound(address));
            assert_silent(&mut wire, address, Duration::from_millis(300)).await;
        }
        timeout(Duration::from_millis(50), systems.drift()).await.expect_err("told already");
        // And it can be had again.
        bring(&systems, 0, leased(2, LATE)).await.unwrap();
        assert_eq!(refresh(&systems, &[0, 1], leased(2, LATE)), [1]);
        assert!(is_bound(V4));
    });
}

#[test]
fn a_thawed_daemon_announces_nothing_that_ended() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &BOTH)).unwrap();
        for at in 0..2 {
            bring(&systems, at, leased(1, LATE)).await.unwrap();
        }
        let mut wire = Wire::tap("v1");
        // No notice of the kernel was read yet, and announcements were due meanwhile.
        std::thread::sleep(Duration::from_secs(1) + LATE);
        for (at, address) in BOTH.into_iter().enumerate() {
            systems.run(call(at, HookAction::Announce)).await.unwrap_err();
            assert_silent(&mut wire, address, Duration::from_millis(200)).await;
        }
    });
}

#[test]
fn without_time_left_nothing_stays_and_nothing_is_announced() {
    in_namespace(|| async {
        let mut wire = Wire::tap("v1");
        let systems = Systems::open(&config("v0", &BOTH)).unwrap();
        for (at, address) in BOTH.into_iter().enumerate() {
            let error = bring(&systems, at, over(1)).await.unwrap_err();
            assert_eq!(
                error,
                format!(
                    "the lease of {address}/{} ended before it was on v0: this process was stopped or slow; \
                     nothing is left there",
                    if at == 0 { 32 } else { 128 }
                )
            );
            assert!(!is_bound(address));
            assert_silent(&mut wire, address, Duration::from_millis(200)).await;
        }
        // Nor does what was there before.
        for at in 0..2 {
            bring(&systems, at, leased(5, LATE)).await.unwrap();
        }
        assert_eq!(refresh(&systems, &[1, 0], over(5)), [1, 0]);
        bring(&systems, 0, leased(5, LATE)).await.unwrap();
        bring(&systems, 0, over(1)).await.unwrap_err();
        assert!(BOTH.iter().all(|a| !is_bound(a)));
        timeout(Duration::from_millis(50), systems.drift()).await.expect_err("all of it was own doing");
    });
}

#[test]
fn a_lifetime_may_end_be_endless_and_end_again() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &BOTH)).unwrap();
        let shown = || BOTH.map(|a| bound("v0", a)[0]["valid_life_time"].as_u64().unwrap());
        for at in 0..2 {
            bring(&systems, at, lasting(60)).await.unwrap();
        }
        assert_eq!(shown(), [60; 2]);
        assert_eq!(refresh(&systems, &[0, 1], Lifetime::ENDLESS), [] as [usize; 0]);
        assert_eq!(shown(), [u64::from(u32::MAX); 2]);
        assert_eq!(refresh(&systems, &[0, 1], lasting(30)), [] as [usize; 0]);
        assert_eq!(shown(), [30; 2]);
        for address in BOTH {
            assert_eq!(bound("v0", address)[0]["deprecated"], true);
        }
    });
}

#[test]
fn what_somebody_else_put_there_is_not_kept() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &BOTH)).unwrap();
        for (at, (address, length)) in BOTH.into_iter().zip([32, 128]).enumerate() {
            bring(&systems, at, lasting(60)).await.unwrap();
            sleep(Duration::from_millis(20)).await;
            ip(&format!("addr del {address}/{length} dev v0"));
            ip(&format!("addr add {address}/{length} dev v0"));
        }
        assert_eq!(refresh(&systems, &[0, 1], lasting(60)), [0, 1]);
        assert!(BOTH.iter().all(|a| !is_bound(a)));

        // With another prefix it would answer for ever.
        ip(&format!("addr add {V4}/24 dev v0"));
        assert_eq!(systems.drift().await, (item(0), true));
        bring(&systems, 0, leased(2, LATE)).await.unwrap();
        let shown = bound("v0", V4);
        assert_eq!((shown.len(), &shown[0]["prefixlen"]), (1, &32.into()));
    });
}

#[test]
fn what_an_earlier_life_left_can_be_kept() {
    in_namespace(|| async {
        let before = Systems::open(&config("v0", &BOTH)).unwrap();
        for at in 0..2 {
            bring(&before, at, lasting(60)).await.unwrap();
        }
        drop(before);
        let after = Systems::open(&config("v0", &BOTH)).unwrap();
        // Not before somebody was told of it.
        assert_eq!(here(&after).await, [true, true]);
        assert_eq!(refresh(&after, &[0, 1], lasting(30)), [] as [usize; 0]);
        for address in BOTH {
            assert_eq!(bound("v0", address)[0]["valid_life_time"], 30);
        }
        assert_eq!(refresh(&after, &[7], lasting(30)), [7], "no such item");
    });
}

#[test]
fn a_sibling_keeps_what_it_took_over() {
    in_namespace(|| async {
        let mut second = config("v0", &BOTH);
        let first = second.servers[0].clone();
        second.servers.push(first);
        let first = second.clone();
        second.me = 1;
        let (first, second) = (Systems::open(&first).unwrap(), Systems::open(&second).unwrap());
        for at in 0..2 {
            bring(&first, at, lasting(60)).await.unwrap();
            bring(&second, at, lasting(60)).await.unwrap();
        }
        // The monitor of the first gets its turn.
        sleep(Duration::from_millis(50)).await;
        assert_eq!(refresh(&first, &[0, 1], lasting(30)), [] as [usize; 0]);
        for at in 0..2 {
            down(&first, at).await.unwrap();
        }
        assert_eq!(refresh(&second, &[0, 1], lasting(60)), [] as [usize; 0]);
        assert_eq!(here(&second).await, [true, true]);
    });
}

/// CPU time of this thread, user and system.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn thousand(v6: bool) -> Vec<String> {
    let name =
        |n| if v6 { format!("2001:db8:8::{n:x}") } else { format!("10.8.{}.{}", n / 250, n % 250 + 1) };
    (1..=1000).map(name).collect()
}

#[test]
fn a_thousand_addresses_are_refreshed_together() {
    for v6 in [false, true] {
        in_namespace(move || async move {
            let names = thousand(v6);
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let mut config = config("v0", &names);
            let once = serde_json::json!({"count": 1, "again_after": [], "refresh": 0});
            config.systems[0].config.insert("announce".to_owned(), once);
            let systems = Systems::open(&config).unwrap();
            let all: Vec<_> = (0..names.len()).collect();
            for &at in &all {
                bring(&systems, at, lasting(60)).await.unwrap();
            }
            // The announcements of the beginning are not what is measured.
            sleep(Duration::from_millis(5200)).await;
            const ROUNDS: u32 = 6;
            let (mut spent, mut longest, before) = (Duration::ZERO, Duration::ZERO, cpu());
            for _ in 0..ROUNDS {
                let (start, at) = (cpu(), Instant::now());
                assert_eq!(refresh(&systems, &all, leased(60, Duration::from_secs(20))), [] as [usize; 0]);
                spent += cpu() - start;
                longest = longest.max(at.elapsed());
                sleep(Duration::from_millis(500)).await;
            }
            let rest = cpu() - before - spent;
            println!(
                "{}: {} addresses: {:?} of CPU per refresh of all, at most {longest:?} long; the monitor {:?}",
                if v6 { "IPv6" } else { "IPv4" },
                names.len(),
                spent / ROUNDS,
                rest / ROUNDS
            );
            // Notices of own refreshes do not even wake this thread.
            assert!(rest < spent / 2, "{rest:?} besides {spent:?}");
            timeout(Duration::from_millis(50), systems.drift()).await.expect_err("no drift");
            assert_eq!(refresh(&systems, &all, over(60)), all);
            assert!(here(&systems).await.iter().all(|present| !present));
        });
    }
}
