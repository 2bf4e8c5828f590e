# ruff: noqa: ANN001, ANN201, ANN202
"""Compiled rendering of tissue and lesions.

All of them go voxel by voxel: voxel index -> head -> (deformation) -> MNI -> tissue -> signal, at
several points inside a voxel, so that partial volume and the slice profile come out of the
geometry and no fine grid is ever stored.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from msseg_lightning.simulate.head import COARSE_MM
from msseg_lightning.simulate.warp import LATTICE_MM, trilinear

NOISE_SIZE = 64
SIGNALS = ("white", "grey", "csf", "fat", "muscle", "marrow", "bone", "skin", "free_water")
STYLE = ("sharpness", "folding", "sulci", "widening", "texture", "rim", "skull", "scalp", "flow")

_jit = numba.njit(cache=True, nogil=True)


def noise_tile(generator: np.random.Generator) -> NDArray[np.float32]:
    """(64, 64, 64) periodic noise, mean 0, deviation 1, 3.5 voxels wide (FWHM)."""
    from scipy import ndimage

    white = generator.standard_normal((NOISE_SIZE,) * 3, dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, 1.5, mode="wrap")
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


@_jit
def _noise(tile, x, y, z):
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - i, y - j, z - k
    i0, j0, k0 = int(i) % NOISE_SIZE, int(j) % NOISE_SIZE, int(k) % NOISE_SIZE
    i1, j1, k1 = (i0 + 1) % NOISE_SIZE, (j0 + 1) % NOISE_SIZE, (k0 + 1) % NOISE_SIZE
    low = (tile[i0, j0, k0] * (1 - fx) + tile[i1, j0, k0] * fx) * (1 - fy) + (
        tile[i0, j1, k0] * (1 - fx) + tile[i1, j1, k0] * fx
    ) * fy
    high = (tile[i0, j0, k1] * (1 - fx) + tile[i1, j0, k1] * fx) * (1 - fy) + (
        tile[i0, j1, k1] * (1 - fx) + tile[i1, j1, k1] * fx
    ) * fy
    return low * (1 - fz) + high * fz


@_jit
def _to_template(x, y, z, field, field_origin, affine):
    u = (x - field_origin[0]) / LATTICE_MM
    v = (y - field_origin[1]) / LATTICE_MM
    w = (z - field_origin[2]) / LATTICE_MM
    qx = x + trilinear(field, 0, u, v, w)
    qy = y + trilinear(field, 1, u, v, w)
    qz = z + trilinear(field, 2, u, v, w)
    return (
        affine[0, 0] * qx + affine[0, 1] * qy + affine[0, 2] * qz + affine[0, 3],
        affine[1, 0] * qx + affine[1, 1] * qy + affine[1, 2] * qz + affine[1, 3],
        affine[2, 0] * qx + affine[2, 1] * qy + affine[2, 2] * qz + affine[2, 3],
    )


@_jit
def _step(value, low, high):
    """0 below ``low``, 1 above ``high``, linear between (either may be the larger)."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


@_jit
def _brain(px, py, pz, depth, maps, origin, tile, style):
    """Shares of white matter, grey matter and CSF at a point inside the hull.

    The template is an average: its borders are soft and its sulci shallow. Its levels are read as
    scores instead of shares: patient-specific noise moves the borders, thin sheets (zero sets of
    smooth noise) add sulci to the cortex, and a steep softmax makes the borders sharp again.
    """
    sharpness, folding, sulci, widening = style[0], style[1], style[2], style[3]
    x, y, z = px - origin[0], py - origin[1], pz - origin[2]
    white = trilinear(maps, 0, x, y, z) / 255.0
    grey = trilinear(maps, 1, x, y, z) / 255.0
    csf = trilinear(maps, 2, x, y, z) / 255.0
    shallow = _step(depth, 32.0, 18.0)
    border = 4 * white * (1 - white)
    if border > 0.02:
        bend = _noise(tile, px * 0.30 + 11.3, py * 0.30 + 3.1, pz * 0.30 + 40.7)
        white += folding * bend * border * (0.3 + 0.7 * shallow)
    score = csf * (1 + 0.35 * shallow) + widening * (0.3 + 0.7 * shallow)
    if shallow > 0:
        cerebellum = _step(pz, -12.0, -20.0) * _step(py, -36.0, -46.0)
        sheet = _noise(tile, px * 0.26 + 31.9, py * 0.26 + 7.7, pz * 0.26 + 19.3)
        # a sulcus has grey walls, also where the average brain shows white matter
        wall = _step(abs(sheet), 0.55, 0.30) * _step(depth, 18.0, 10.0) * (1 - cerebellum)
        white -= 0.45 * wall
        grey += 0.15 * wall
        cortex = shallow * _step(white, 0.50, 0.20)
        if cerebellum > 0:
            folia = math.sin((pz * 0.9 - py * 0.45 + 2.5 * sheet) * 1.25)
            score += 0.30 * sulci * cerebellum * (1 - folia * folia) * (1 - folia * folia) * cortex
        ridge = math.exp(-sheet * sheet / (0.0225 * (1 + 6 * max(widening, -0.1))))
        score += sulci * ridge * cortex * (1 - cerebellum) * (1.25 - 0.5 * _step(depth, 6.0, 20.0))
        # between two sulci a blade of white matter reaches into the gyrus
        blade = _step(abs(sheet), 0.50, 0.95) * _step(depth, 3.5, 7.0) * shallow
        white += 0.45 * blade * (1 - cerebellum)
    score += _step(depth, 2.0, 0.4) * (0.9 + 2 * widening)  # CSF under the hull
    steep = sharpness * (0.45 + 0.55 * shallow)
    top = max(white, max(grey, score))
    white = math.exp(steep * (white - top))
    grey = math.exp(steep * (grey - top))
    csf = math.exp(steep * (score - top))
    total = white + grey + csf
    return white / total, grey / total, csf / total


_FLOW = np.array(
    [  # MNI position, radius: where inflowing CSF escapes the inversion
        [0.0, -42.0, -33.0, 6.0],
        [0.0, -31.0, -9.0, 4.0],
        [0.0, -12.0, -2.0, 5.0],
        [4.0, 0.0, 8.0, 4.0],
        [-4.0, 0.0, 8.0, 4.0],
        [0.0, -16.0, -34.0, 7.0],
        [12.0, -32.0, -38.0, 6.0],
        [-12.0, -32.0, -38.0, 6.0],
        [22.0, -40.0, 10.0, 7.0],
        [-22.0, -40.0, 10.0, 7.0],
    ]
)


@_jit
def _inside(px, py, pz, depth, maps, distances, origin, tile, style, signals, flow):
    white, grey, csf = _brain(px, py, pz, depth, maps, origin, tile, style)
    wall = trilinear(
        distances,
        1,
        (px - origin[0]) / COARSE_MM,
        (py - origin[1]) / COARSE_MM,
        (pz - origin[2]) / COARSE_MM,
    )
    fine = _noise(tile, px * 1.3 + 5.1, py * 1.3 + 9.7, pz * 1.3 + 2.3)
    coarse = _noise(tile, px * 0.17 + 51.7, py * 0.17 + 23.9, pz * 0.17 + 35.5)
    texture = 1 + style[4] * (0.8 * fine + coarse)
    # iron darkens the deep nuclei, ependyma and loose white matter brighten the ventricles' wall
    deep = _step(depth, 26.0, 36.0)
    grey_signal = (1 - 0.8 * deep) * signals[1] + 0.8 * deep * signals[0]
    rim = style[5] * math.exp(-max(wall, 0.0) / 1.6)
    tract = 0.07 * math.exp(-((abs(px) - 24) ** 2 / 60 + (py + 16) ** 2 / 120)) * _step(pz, 45, 0)
    value = texture * (
        white * signals[0] * (1 + rim + tract) + grey * grey_signal * (1 + 0.3 * rim)
    )
    if csf > 0.02:
        leak = 0.0
        for n in range(_FLOW.shape[0]):
            if flow[n] > 0:
                r2 = (
                    (px - _FLOW[n, 0]) ** 2 + (py - _FLOW[n, 1]) ** 2 + (pz - _FLOW[n, 2]) ** 2
                ) / _FLOW[n, 3] ** 2
                if r2 < 9:
                    leak += flow[n] * math.exp(-0.5 * r2) * max(0.0, 1 + 0.4 * fine)
        value += csf * (signals[2] + leak * signals[8])
    return value, white + grey


@_jit
def _outside(px, py, pz, distance, tile, style, signals):
    """Skull, scalp, face and neck: layers by distance from the hull, muscle and fat below."""
    slow = _noise(tile, px * 0.11 + 3.3, py * 0.11 + 17.1, pz * 0.11 + 29.9)
    skull = style[6] * (1 + 0.15 * slow)
    scalp = style[7] * (1 + 0.20 * slow)
    vault = 2.0 + skull + scalp - distance  # mm below the skin of the vault
    face = 1 - math.sqrt((px / 60) ** 2 + ((py - 44) / 56) ** 2 + ((pz + 58) / 52) ** 2)
    neck = 1 - math.sqrt((px / 60) ** 2 + ((py + 28) / 70) ** 2)
    under = max(face * 56, min(neck * 60, (-34 - pz) * 1.5))
    under += 1.5 * slow
    below = max(vault, under)
    if below <= 0:
        return 0.0
    medium = _noise(tile, px * 0.23 + 13.9, py * 0.23 + 27.3, pz * 0.23 + 5.7)
    if below < 1.5:
        return signals[7]
    for side in (-1.0, 1.0):  # orbits: eyeball, fat behind it
        eye = math.sqrt((px - side * 32) ** 2 + (py - 60) ** 2 + (pz + 36) ** 2)
        if eye < 11.5:
            return signals[2] * (0.6 + 0.2 * medium) + 0.02
        if eye < 12.8:
            return signals[7]
        cone = math.sqrt((px - side * 28) ** 2 + (pz + 34) ** 2)
        if cone < 14 and 30 < py < 62:
            return signals[4] if abs(cone - 9) < 1.5 else signals[3] * (0.85 + 0.1 * medium)
    bone_layer = distance - 2.0
    if bone_layer < 0:
        return signals[2] * 0.8 + 0.12 * signals[4]  # dura and the last CSF
    if bone_layer < skull and vault > 0:
        middle = abs(bone_layer / skull - 0.5)
        if middle < 0.22 + 0.05 * medium and skull > 4:
            return signals[5] * (1 + 0.2 * medium)
        return signals[6]
    if under < vault + 1 or under <= 0:  # scalp
        temporal = _step(pz, 30.0, 0.0) * _step(abs(px), 45.0, 60.0)
        if medium < 2.2 * temporal - 0.9:
            return signals[4] * (1 + 0.1 * medium)
        return signals[3] * (0.9 + 0.08 * medium)
    if py > 34 and abs(px) < 16 and pz > -66 and pz < -22:  # nose and sinuses
        return 0.0 if medium > -0.6 else signals[7]
    if under < 6 + 2 * medium:
        return signals[3] * (0.85 + 0.1 * slow)
    if medium > 0.95:
        return signals[3] * 0.8
    if medium < -1.1:
        return signals[6] if py < 30 else 0.0
    return signals[4] * (1 + 0.12 * medium)


@_jit
def render_signal(
    shape, to_head, points, weights, field, field_origin, affine, maps, distances, origin, tile,
    style, signals, flow,
):  # fmt: skip
    """Render the signal of a whole scan.

    Args:
        shape: (X, Y, Z) of the scan.
        to_head: (4, 4) voxel index -> head mm.
        points: (n, 3) positions inside a voxel, in voxels from its centre.
        weights: (n,) their share of the voxel's signal, sum 1.
        field: displacement on the lattice.
        field_origin: of the lattice, mm.
        affine: (4, 4) deformed head -> MNI.
        maps: tissue levels of the head model.
        distances: its distances.
        origin: its first voxel, MNI mm.
        tile: the patient's noise.
        style: numbers named by ``STYLE``.
        signals: white-matter units, named by ``SIGNALS``.
        flow: (10,) leak of each place of inflow.

    Returns:
        (X, Y, Z) float32, white matter about 1.
    """
    out = np.zeros(shape, np.float32)
    for i in range(shape[0]):
        for j in range(shape[1]):
            for k in range(shape[2]):
                total = 0.0
                far = 0
                for n in range(points.shape[0]):
                    a, b, c = i + points[n, 0], j + points[n, 1], k + points[n, 2]
                    x = to_head[0, 0] * a + to_head[0, 1] * b + to_head[0, 2] * c + to_head[0, 3]
                    y = to_head[1, 0] * a + to_head[1, 1] * b + to_head[1, 2] * c + to_head[1, 3]
                    z = to_head[2, 0] * a + to_head[2, 1] * b + to_head[2, 2] * c + to_head[2, 3]
                    px, py, pz = _to_template(x, y, z, field, field_origin, affine)
                    distance = trilinear(
                        distances,
                        0,
                        (px - origin[0]) / COARSE_MM,
                        (py - origin[1]) / COARSE_MM,
                        (pz - origin[2]) / COARSE_MM,
                    )
                    if distance < 0:
                        value, _ = _inside(
                            px, py, pz, -distance, maps, distances, origin, tile, style, signals,
                            flow,
                        )  # fmt: skip
                    else:
                        far += distance > 2
                        if distance > 45 and n == 0 and pz > 0:
                            break  # air: no other point of this voxel will find anything
                        value = _outside(px, py, pz, distance, tile, style, signals)
                    total += weights[n] * value
                    if n == 1 and far == 2:  # two points do for skull, scalp and neck
                        total /= weights[0] + weights[1]
                        break
                out[i, j, k] = total
    return out


@_jit
def render_brain(shape, to_head, field, field_origin, affine, distances, origin):
    """(X, Y, Z) uint8: whether a voxel's centre lies inside the brain's hull."""
    out = np.zeros(shape, np.uint8)
    for i in range(shape[0]):
        for j in range(shape[1]):
            for k in range(shape[2]):
                x = to_head[0, 0] * i + to_head[0, 1] * j + to_head[0, 2] * k + to_head[0, 3]
                y = to_head[1, 0] * i + to_head[1, 1] * j + to_head[1, 2] * k + to_head[1, 3]
                z = to_head[2, 0] * i + to_head[2, 1] * j + to_head[2, 2] * k + to_head[2, 3]
                px, py, pz = _to_template(x, y, z, field, field_origin, affine)
                if pz < origin[2]:
                    continue  # the cord is no brain
                distance = trilinear(
                    distances,
                    0,
                    (px - origin[0]) / COARSE_MM,
                    (py - origin[1]) / COARSE_MM,
                    (pz - origin[2]) / COARSE_MM,
                )
                out[i, j, k] = distance < 0
    return out


@_jit
def render_lesion(
    start, stop, to_head, points, weights, field, field_origin, affine, maps, distances, origin,
    tile, style, centre, shape_matrix, radius, irregular, key, core, halo, everywhere, reach,
):  # fmt: skip
    """Render one lesion inside a box of voxels.

    Args:
        start: (3,) first voxel of the box.
        stop: (3,) one past the last.
        to_head: as in ``render_signal``, like all arguments up to ``style``.
        points: see there.
        weights: see there.
        field: see there.
        field_origin: see there.
        affine: see there.
        maps: see there.
        distances: see there.
        origin: see there.
        tile: see there.
        style: see there.
        centre: (3,) MNI mm.
        shape_matrix: (3, 3), maps the ellipsoid onto the unit sphere.
        radius: geometric mean of the half axes, mm.
        irregular: relative depth of the border's bays.
        key: where in the noise this lesion's border is read.
        core: how much the middle is darker, 0 to 1.
        halo: strength of the dirty white matter around it, 0 to 1.
        everywhere: True for vessels, which are not limited to brain tissue.
        reach: a voxel whose first point lies this far outside (mm) is skipped.

    Returns:
        Three (x, y, z) float32 of the box: share of the voxel that is lesion, weight of its signal
        (with core and halo), and mean signed distance to the border in mm (positive inside), where
        tissue is not brain at most -1.5.
    """
    size = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
    share = np.zeros(size, np.float32)
    weight = np.zeros(size, np.float32)
    level = np.zeros(size, np.float32)
    frequency = 1.8 / (radius + 1.0)
    edge = 0.5
    for i in range(size[0]):
        for j in range(size[1]):
            for k in range(size[2]):
                near = True
                for n in range(points.shape[0]):
                    if not near:
                        level[i, j, k] = -4
                        break
                    a = start[0] + i + points[n, 0]
                    b = start[1] + j + points[n, 1]
                    c = start[2] + k + points[n, 2]
                    x = to_head[0, 0] * a + to_head[0, 1] * b + to_head[0, 2] * c + to_head[0, 3]
                    y = to_head[1, 0] * a + to_head[1, 1] * b + to_head[1, 2] * c + to_head[1, 3]
                    z = to_head[2, 0] * a + to_head[2, 1] * b + to_head[2, 2] * c + to_head[2, 3]
                    px, py, pz = _to_template(x, y, z, field, field_origin, affine)
                    dx, dy, dz = px - centre[0], py - centre[1], pz - centre[2]
                    u = shape_matrix[0, 0] * dx + shape_matrix[0, 1] * dy + shape_matrix[0, 2] * dz
                    v = shape_matrix[1, 0] * dx + shape_matrix[1, 1] * dy + shape_matrix[1, 2] * dz
                    w = shape_matrix[2, 0] * dx + shape_matrix[2, 1] * dy + shape_matrix[2, 2] * dz
                    away = math.sqrt(u * u + v * v + w * w)
                    bay = _noise(
                        tile, dx * frequency + key, dy * frequency + 2 * key, dz * frequency + key
                    )
                    bay += 0.5 * _noise(
                        tile, dx * 2.7 * frequency, dy * 2.7 * frequency + key, dz * 2.7 * frequency
                    )
                    signed = (1 + irregular * bay - away) * radius
                    if n == 0 and signed < -reach:
                        near = False
                    if signed < -4:
                        level[i, j, k] += weights[n] * -4
                        continue
                    tissue = 1.0
                    if not everywhere:
                        distance = trilinear(
                            distances,
                            0,
                            (px - origin[0]) / COARSE_MM,
                            (py - origin[1]) / COARSE_MM,
                            (pz - origin[2]) / COARSE_MM,
                        )
                        if distance >= 0:
                            level[i, j, k] += weights[n] * min(signed, -1.5)
                            continue
                        _, _, csf = _brain(px, py, pz, -distance, maps, origin, tile, style)
                        tissue = 1 - csf
                    inside = _step(signed, -edge, edge)
                    level[i, j, k] += weights[n] * (signed if tissue > 0.5 else min(signed, -1.5))
                    share[i, j, k] += weights[n] * tissue * inside
                    glow = halo * math.exp(min(signed, 0.0) / 1.2)
                    dark = (1 + 0.12 * bay) * (1 - core * _step(away, 0.75, 0.25))
                    weight[i, j, k] += weights[n] * tissue * max(inside * dark, glow * (1 - inside))
    return share, weight, level
