package mlxc

/*
#include <stdlib.h>
#include "glue.h"
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// Device is where MLX computes.
type Device struct {
	Name  string // "cpu" or "gpu"
	Index int
	kind  uint32
}

func (d Device) String() string { return fmt.Sprintf("%s:%d", d.Name, d.Index) }

func defaultDevice() (Device, error) {
	dev := C.mlx_device_new()
	defer func() { C.mlx_device_free(dev) }()
	if err := check("default device", C.mlx_get_default_device(&dev)); err != nil {
		return Device{}, err
	}
	var kind C.mlx_device_type
	if err := check("device type", C.mlx_device_get_type(&kind, dev)); err != nil {
		return Device{}, err
	}
	var index C.int
	if err := check("device index", C.mlx_device_get_index(&index, dev)); err != nil {
		return Device{}, err
	}
	name := "cpu"
	if kind == C.MLX_GPU {
		name = "gpu"
	}
	return Device{Name: name, Index: int(index), kind: uint32(kind)}, nil
}

// deviceInfo is a number that MLX knows of the lease's device; has is false if it has none of that name.
func (l *Lease) deviceInfo(name string) (value uint64, has bool, err error) {
	dev := C.mlx_device_new_type(C.mlx_device_type(l.thread.device.kind), C.int(l.thread.device.Index))
	defer C.mlx_device_free(dev)
	info := C.mlx_device_info_new()
	defer func() { C.mlx_device_info_free(info) }()
	if err := checkAnywhere("device info", func() C.int { return C.mlx_device_info_get(&info, dev) }); err != nil {
		return 0, false, err
	}
	key := C.CString(name)
	defer C.free(unsafe.Pointer(key))
	var exists C.bool
	if err := checkAnywhere("device info", func() C.int { return C.mlx_device_info_has_key(&exists, info, key) }); err != nil || !bool(exists) {
		return 0, false, err
	}
	var size C.size_t
	err = checkAnywhere("device info", func() C.int { return C.mlx_device_info_get_size(&size, info, key) })
	return uint64(size), true, err
}

// MemorySize is the size of the device's memory in bytes; 0 where MLX does not know it.
func (l *Lease) MemorySize() (uint64, error) {
	size, _, err := l.deviceInfo("memory_size")
	return size, err
}

// Version is the version of the linked MLX library, e.g. "0.32.2".
func Version() (string, error) {
	str := C.mlx_string_new()
	defer func() { C.mlx_string_free(str) }()
	if err := checkAnywhere("version", func() C.int { return C.mlx_version(&str) }); err != nil {
		return "", err
	}
	return C.GoString(C.mlx_string_data(str)), nil
}
