//! Hardware rows: GPUs, the servers around them, drives, and what storage costs beside its drives.

use super::BookError;
use super::row::Reader;
use super::units::{BYTES, BYTES_PER_S, FLOP_PER_S, WATTS};

/// A GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// Memory, in bytes.
    pub memory_bytes: f64,
    /// Memory bandwidth, in bytes a second.
    pub bandwidth: f64,
    /// Peak in dense bf16, in operations a second.
    pub peak_flops: f64,
    /// Power at full load, in watts. Rent covers it; printed for those who own.
    pub power_w: f64,
    /// Dollars an hour.
    pub dollars_per_hour: f64,
}

impl Gpu {
    pub(crate) fn read(row: &Reader<'_>) -> Result<Self, BookError> {
        row.source()?;
        Ok(Gpu {
            memory_bytes: row.quantity("memory", BYTES)?,
            bandwidth: row.quantity("bandwidth", BYTES_PER_S)?,
            peak_flops: row.quantity("peak", FLOP_PER_S)?,
            power_w: row.quantity("power", WATTS)?,
            dollars_per_hour: row.number("dollars_per_hour")?,
        })
    }
}

/// A server with GPUs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Server {
    /// GPUs.
    pub gpus: u32,
    /// DRAM that the engines' own host tier may use, in bytes.
    pub host_memory_bytes: f64,
    /// Between host memory and the GPUs of one engine, in bytes a second.
    pub host_bandwidth: f64,
    /// Its port for storage, in bytes a second that arrive.
    pub link_bandwidth: f64,
}

impl Server {
    pub(crate) fn read(row: &Reader<'_>) -> Result<Self, BookError> {
        row.source()?;
        Ok(Server {
            gpus: row.whole("gpus")?,
            host_memory_bytes: row.quantity("host_memory", BYTES)?,
            host_bandwidth: row.quantity("host_bandwidth", BYTES_PER_S)?,
            link_bandwidth: row.quantity("link", BYTES_PER_S)? * row.share("link_efficiency")?,
        })
    }
}

/// A drive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drive {
    /// Capacity, in bytes.
    pub capacity_bytes: f64,
    /// Reading, in bytes a second.
    pub read_bandwidth: f64,
    /// Writing, in bytes a second.
    pub write_bandwidth: f64,
    /// What it may be written a day over its life, in units of its capacity.
    pub writes_per_day: f64,
    /// Its life, in years.
    pub life_years: f64,
    /// Dollars for 10^12 bytes.
    pub dollars_per_tb: f64,
    /// Power, in watts.
    pub power_w: f64,
}

impl Drive {
    pub(crate) fn read(row: &Reader<'_>) -> Result<Self, BookError> {
        row.source()?;
        Ok(Drive {
            capacity_bytes: row.quantity("capacity", BYTES)?,
            read_bandwidth: row.quantity("read", BYTES_PER_S)?,
            write_bandwidth: row.quantity("write", BYTES_PER_S)?,
            writes_per_day: row.positive("writes_per_day")?,
            life_years: row.positive("life_years")?,
            dollars_per_tb: row.number("dollars_per_tb")?,
            power_w: row.quantity("power", WATTS)?,
        })
    }

    /// Its price, in dollars.
    pub fn dollars(&self) -> f64 {
        self.capacity_bytes / 1e12 * self.dollars_per_tb
    }

    /// Dollars that a byte written to the medium wears off: the price over all it may be written in its life.
    pub fn wear_dollars_per_byte(&self) -> f64 {
        self.dollars() / (self.capacity_bytes * self.writes_per_day * self.life_years * 365.0)
    }

    /// Dollars an hour by time alone: the price over the hours of its life.
    pub fn time_dollars_per_hour(&self) -> f64 {
        self.dollars() / (self.life_years * 365.0 * 24.0)
    }
}

/// How Forebay's tiers are built, and what they cost beside the drives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Storage {
    /// Drives in each server.
    pub drives_per_server: u32,
    /// DRAM of Forebay's nodes in each server, in bytes.
    pub memory_bytes_per_server: f64,
    /// Dollars for 10^12 bytes of DRAM.
    pub memory_dollars_per_tb: f64,
    /// Slot, cable and share of the enclosure of a drive, in dollars.
    pub enclosure_dollars_per_drive: f64,
    /// Share of a drive that live blocks can fill.
    pub fill: f64,
    /// Bytes written to the medium for a byte put.
    pub write_amplification: f64,
    /// Copies of a block.
    pub copies: f64,
    /// Dollars a kilowatt-hour.
    pub electricity_dollars_per_kwh: f64,
    /// Share of the drives' bandwidth that loads reach.
    pub load_efficiency: f64,
    /// Reading the DRAM of a server's nodes, in bytes a second for each of its drives; infinite where no book says it: then the link alone bounds it.
    pub memory_bandwidth_per_drive: f64,
    /// Milliseconds before the first byte of a load.
    pub first_byte_ms: f64,
}

impl Storage {
    pub(crate) fn read(row: &Reader<'_>) -> Result<Self, BookError> {
        row.source()?;
        let storage = Storage {
            drives_per_server: row.whole("per_server")?,
            memory_bytes_per_server: row.quantity("memory_per_server", BYTES)?,
            memory_dollars_per_tb: row.number("memory_dollars_per_tb")?,
            enclosure_dollars_per_drive: row.number("enclosure_dollars_per_drive")?,
            fill: row.share("fill")?,
            write_amplification: row.positive("write_amplification")?,
            copies: row.positive("copies")?,
            electricity_dollars_per_kwh: row.number("electricity_dollars_per_kwh")?,
            load_efficiency: row.share("load_efficiency")?,
            memory_bandwidth_per_drive: row
                .parsed("memory_read_per_drive", |text| BYTES_PER_S.parse(text))?
                .unwrap_or(f64::INFINITY),
            first_byte_ms: row.number("first_byte_ms")?,
        };
        let least_once =
            |key: &str, n: f64| row.check(key, n >= 1.0, || format!("is {n}, and a block is written once at least"));
        least_once("write_amplification", storage.write_amplification)?;
        least_once("copies", storage.copies)?;
        Ok(storage)
    }
}
