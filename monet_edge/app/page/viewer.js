// The viewer: NiiVue, with what this page asks of it. Knows of volumes, masks and surfaces, nothing of the server but addresses.

const VIEWS = { axial: 0, coronal: 1, sagittal: 2, all: 3, solid: 4 };
const FLAT = 0.25; // a scan whose shortest side is less of its longest
const GHOST_VOXELS = 30e6; // beyond, a see-through scan in 3-D takes too much of a laptop's graphics memory

export function hasWebGl() {
  return Boolean(document.createElement("canvas").getContext("webgl2"));
}

// Without a graphics card a scan in 3-D takes seconds a frame; its slices, and the surface of its mask, do not
function isSlow(gl) {
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  return /swiftshader|llvmpipe|softpipe|basic render|software/i.test(gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
}

function library() {
  return (library.loaded ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "static/niivue.umd.js";
    script.onload = () => done(window.niivue);
    script.onerror = () => failed(new Error("the viewer cannot be loaded"));
    document.head.append(script);
  }));
}

async function bytes(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.arrayBuffer();
}

export class Viewer {
  constructor(canvas, { onWhere, onWindow }) {
    this.canvas = canvas;
    this.opacity = 0.5;
    this.onWhere = onWhere;
    this.onWindow = onWindow;
    canvas.addEventListener("keydown", (event) => event.stopImmediatePropagation(), true); // the page has its own keys
    canvas.addEventListener("keyup", (event) => event.stopImmediatePropagation(), true);
  }

  async ready() {
    return (this.starting ??= this.start());
  }

  async start() {
    const { Niivue, SHOW_RENDER, MULTIPLANAR_TYPE } = await library();
    const nv = new Niivue({
      logLevel: "error", loadingText: "", dragAndDropEnabled: false, backColor: [0, 0, 0, 1], fontColor: [0.9, 0.93, 0.95, 1],
      crosshairColor: [0.35, 0.65, 1, 0.65], crosshairWidth: 0.35, crosshairWidthUnit: "percent", crosshairGap: 10, isRadiologicalConvention: true,
      multiplanarLayout: MULTIPLANAR_TYPE.GRID, multiplanarShowRender: SHOW_RENDER.ALWAYS, multiplanarPadPixels: 8,
      showAllOrientationMarkers: true, meshThicknessOn2D: 0, renderOverlayBlend: 0, meshXRay: 0.55, show3Dcrosshair: false,
    });
    await nv.attachToCanvas(this.canvas);
    nv.onLocationChange = (place) => this.onWhere(place);
    nv.onIntensityChange = () => this.onWindow();
    this.slow = isSlow(nv.gl);
    if (this.slow) nv.drawImage3D = () => {};
    this.nv = nv;
    this.setView("all");
  }

  async showScan(address) {
    const [data] = await Promise.all([bytes(address), this.ready()]);
    this.clear();
    const scan = await window.niivue.NVImage.loadFromUrl({ url: data, name: "scan.nii", colormap: "gray" });
    const ghost = !this.slow && scan.img.length < GHOST_VOXELS;
    this.nv.opts.gradientOpacity = ghost ? 0.6 : 0;
    await this.nv.setVolumeRenderIllumination(ghost ? 0.3 : 0);
    this.nv.setRenderAzimuthElevation(120, 15);
    this.nv.addVolume(scan);
    this.canvas.dataset.shown = "scan";
  }

  // labels: [{name, colour: [r, g, b]}] of 1, 2, ...; surfaces: [{address, colour}] of those that are not empty; centre: mm or null
  async showMask(address, labels, surfaces, centre) {
    const [data, ...meshes] = await Promise.all([bytes(address), ...surfaces.map((surface) => bytes(surface.address))]);
    const { NVImage, NVMesh } = window.niivue;
    const nv = this.nv;
    const mask = await NVImage.loadFromUrl({ url: data, name: "mask.nii", opacity: this.opacity });
    const [R, G, B] = [0, 1, 2].map((part) => [0, ...labels.map((label) => label.colour[part])]);
    mask.setColormapLabel({ R, G, B, A: R.map((_, i) => (i ? 255 : 0)), I: R.map((_, i) => i), labels: ["", ...labels.map((label) => label.name)] });
    this.clearMask();
    for (const [i, mesh] of meshes.entries()) {
      nv.meshes.push(await NVMesh.readMesh(mesh, "surface.mz3", nv.gl, 1, new Uint8Array([...surfaces[i].colour, 255])));
    }
    // not addVolume and addMesh: each would prepare the scan's own layer anew, 0.6 s of 10 million voxels
    nv.volumes = [nv.volumes[0], mask];
    nv.overlays = [mask];
    nv.refreshLayers(mask, 1);
    if (centre) nv.scene.crosshairPos = nv.mm2frac(centre);
    nv.drawScene();
    this.canvas.dataset.shown = "scan mask";
  }

  clearMask() {
    for (const mesh of this.nv.meshes) mesh.unloadMesh(this.nv.gl);
    this.nv.meshes = [];
    this.nv.volumes = this.nv.volumes.slice(0, 1);
    this.nv.overlays = [];
  }

  clear() {
    if (!this.nv) return;
    this.clearMask();
    for (const volume of [...this.nv.volumes]) this.nv.removeVolume(volume);
    this.canvas.dataset.shown = "";
  }

  // The view that shows most: of a flat scan the plane that it lies in
  get best() {
    const scan = this.nv.volumes[0];
    const sides = [1, 2, 3].map((axis) => scan.dimsRAS[axis] * scan.pixDimsRAS[axis]);
    const least = Math.min(...sides);
    return least < FLAT * Math.max(...sides) ? ["sagittal", "coronal", "axial"][sides.indexOf(least)] : "all";
  }

  setView(name) {
    this.view = name;
    this.nv?.setSliceType(VIEWS[name]);
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    const mask = this.nv?.volumes[1];
    if (!mask) return;
    mask.opacity = opacity;
    for (const mesh of this.nv.meshes) mesh.visible = opacity > 0;
    this.nv.refreshLayers(mask, 1);
    this.nv.drawScene();
  }

  // Level and width of what is shown, and how far they can be moved
  get window() {
    const scan = this.nv?.volumes[0];
    if (!scan) return null;
    const [low, high] = [scan.global_min, Math.max(scan.global_max, scan.global_min + 1e-6)];
    return { low, high, level: (scan.cal_min + scan.cal_max) / 2, width: scan.cal_max - scan.cal_min };
  }

  setWindow(level, width) {
    const scan = this.nv?.volumes[0];
    if (!scan) return;
    [scan.cal_min, scan.cal_max] = [level - width / 2, level + width / 2];
    this.nv.updateGLVolume();
  }

  move(right, anterior, superior) {
    if (this.view === "solid") {
      this.nv.setRenderAzimuthElevation(this.nv.scene.renderAzimuth + 5 * right, this.nv.scene.renderElevation + 5 * (anterior + superior));
    } else {
      this.nv?.moveCrosshairInVox(right, anterior, superior);
    }
  }
}
