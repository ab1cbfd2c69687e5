"""3D Slicer's module: choose a volume and a model, get a segmentation with names and colours."""

import logging
import shutil
import tempfile
from pathlib import Path

import ctk
import qt
from MonetEdgeLib import runner
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

import slicer

DISCLAIMER = "Research use only, not a medical device."
POLL = 200  # ms


class MonetEdge(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "monet-edge"
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = []
        self.parent.contributors = ["The monet-edge contributors"]
        self.parent.helpText = (
            f"Segments CT and MR on this computer's CPU in seconds, without a GPU and without PyTorch. {DISCLAIMER} "
            "Read a model's card before you believe its masks: monet-edge info MODEL."
        )
        self.parent.acknowledgementText = "MoNet: Knolle, Kaissis et al. The weights carry the licences of their scans."


class MonetEdgeWidget(ScriptedLoadableModuleWidget):
    """Its panel."""

    def setup(self):
        """Build the panel; called when it is shown for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = MonetEdgeLogic()
        box = ctk.ctkCollapsibleButton()
        box.text = "Segment"
        self.layout.addWidget(box)
        form = qt.QFormLayout(box)

        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.setMRMLScene(slicer.mrmlScene)
        form.addRow("Volume:", self.volume)

        self.model = qt.QComboBox()
        form.addRow("Model:", self.model)
        self.facts = qt.QLabel()
        self.facts.wordWrap = True
        form.addRow("", self.facts)
        self.threshold = ctk.ctkSliderWidget()
        self.threshold.minimum, self.threshold.maximum, self.threshold.singleStep, self.threshold.decimals = 0.01, 0.95, 0.01, 2
        form.addRow("Threshold:", self.threshold)

        self.apply = qt.QPushButton()
        form.addRow(self.apply)
        self.bar = qt.QProgressBar()
        self.bar.setRange(0, 0)  # nobody knows how long it takes: it moves
        form.addRow(self.bar)
        self.status = qt.QLabel()
        self.status.wordWrap = True
        form.addRow(self.status)
        note = qt.QLabel(DISCLAIMER)
        note.wordWrap = True
        form.addRow(note)
        self.layout.addStretch(1)

        self.timer = qt.QTimer()
        self.timer.setInterval(POLL)
        self.timer.connect("timeout()", self.onTimer)
        self.apply.connect("clicked()", self.onApply)
        self.model.connect("currentIndexChanged(int)", self.onModel)
        self.volume.connect("currentNodeChanged(vtkMRMLNode*)", lambda *_: self.refresh())
        self.refresh()

    def cleanup(self):
        """The panel is gone: whatever runs is stopped."""
        self.timer.stop()
        self.logic.stop()

    def enter(self):
        """The panel is seen again."""
        if runner.is_installed() and not self.logic.models:
            with slicer.util.tryWithErrorDisplay("monet-edge does not run.", waitCursor=True):
                self.logic.ask()
        if self.model.count == 0 and self.logic.models:
            self.model.addItems([f"{one.name} ({one.modality})" for one in self.logic.models])
        self.refresh()

    def refresh(self):
        """What the buttons say and whether they can be pressed."""
        running = self.logic.isRunning()
        installed = bool(self.logic.models)
        self.bar.visible = running
        self.apply.text = "Stop" if running else "Segment" if installed else "Install monet-edge"
        self.apply.enabled = running or not installed or self.volume.currentNode() is not None
        for widget in (self.volume, self.model, self.threshold):
            widget.enabled = installed and not running

    def onModel(self, index):
        """Another model: what it is, and its own threshold."""
        if not 0 <= index < len(self.logic.models):
            return
        model = self.logic.models[index]
        self.facts.text = f"{', '.join(name for name, _ in model.labels)}. {model.licence}"
        self.threshold.value = model.threshold
        self.threshold.visible = model.binary

    def onApply(self):
        """The one button: install, segment or stop."""
        if self.logic.isRunning():
            self.logic.stop()
            self.timer.stop()
            self.status.text = "Stopped."
        elif not self.logic.models:
            self.install()
        else:
            with slicer.util.tryWithErrorDisplay("The volume cannot be segmented."):
                model = self.logic.models[self.model.currentIndex]
                self.logic.start(self.volume.currentNode(), model, self.threshold.value if model.binary else None)
                self.status.text = "Segmenting. The first time on a computer, compiling takes some seconds."
                self.timer.start()
        self.refresh()

    def install(self):
        """Install the package into Slicer's Python, having asked."""
        question = "monet-edge will be installed into this Slicer's Python (about 300 MB with numba; no PyTorch). Go on?"
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle="monet-edge"):
            return
        with slicer.util.tryWithErrorDisplay("monet-edge cannot be installed.", waitCursor=True):
            runner.demand_python()
            self.logic.install()
        self.enter()

    def onTimer(self):
        """See how far it is; at the end, take the segmentation."""
        try:
            node = self.logic.poll()
        except runner.RunError as error:
            self.timer.stop()
            self.status.text = f"Failed: {error}"
            slicer.util.errorDisplay(str(error), windowTitle="monet-edge")
        else:
            if node is None:
                return
            self.timer.stop()
            told = self.logic.warnings
            self.status.text = "Done." if not told else "Done, with a warning: " + "; ".join(told)
        self.refresh()


class MonetEdgeLogic(ScriptedLoadableModuleLogic):
    """From a volume node to a segmentation node."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.models, self.ending, self.warnings = [], "", []
        self._run = self._folder = self._volume = self._model = None

    def install(self, wheels=""):
        """Install monet-edge, of a folder of wheels where there is no network."""
        slicer.util.pip_install(runner.requirements(wheels))

    def ask(self):
        """Which models there are."""
        self.models, self.ending = runner.about(self.python())

    def python(self):
        """Slicer's own Python as a program."""
        return shutil.which("PythonSlicer")

    def isRunning(self):
        """Whether a volume is being segmented."""
        return self._run is not None

    def start(self, volume, model, threshold=None):
        """Begin to segment a volume node."""
        self._folder = Path(tempfile.mkdtemp(dir=slicer.app.temporaryPath))
        scan, self._volume, self._model, self.warnings = self._folder / "scan.nii.gz", volume, model, []
        if not slicer.util.exportNode(volume, str(scan)):
            self._finish()
            raise RuntimeError("the volume cannot be exported")
        self._run = runner.Run(runner.command(self.python(), scan, self._mask(), model.name, threshold))

    def poll(self):
        """The segmentation node once it is there, else None; RunError if there is none."""
        try:
            lines, ended = self._run.read()
            for line in lines:
                logging.info(f"monet-edge: {line}")
            if not ended:
                return None
            self.warnings = runner.warnings(self._run.lines)
            node = self._load()
        except BaseException:
            self._finish()
            raise
        self._finish()
        return node

    def stop(self):
        """Stop what runs, and remove its files."""
        if self._run is not None:
            self._run.stop()
        self._finish()

    def _mask(self):
        return self._folder / f"mask{self.ending}"

    def _load(self):
        node = slicer.util.loadSegmentation(str(self._mask()))
        node.SetName(f"{self._volume.GetName()} {self._model.name}")
        node.SetReferenceImageGeometryParameterFromVolumeNode(self._volume)
        node.SetAndObserveTransformNodeID(self._volume.GetTransformNodeID())  # the file was exported as it is below its transform
        if not self._mask().name.endswith(".seg.nrrd"):
            self._name(node.GetSegmentation())
        node.CreateDefaultDisplayNodes()
        node.CreateClosedSurfaceRepresentation()
        return node

    def _name(self, segmentation):
        """Names and colours, where the file has only numbers."""
        for index in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(index)
            name, colour = self._model.labels[segment.GetLabelValue() - 1]
            segment.SetName(name)
            segment.SetColor(*colour)

    def _finish(self):
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._run = self._folder = None


class MonetEdgeTest(ScriptedLoadableModuleTest):
    """Slicer's own test of the module: a head that anybody can download, segmented."""

    def setUp(self):
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all tests."""
        self.setUp()
        self.test_volume_to_segmentation()

    def test_volume_to_segmentation(self):
        """A sample volume becomes a segmentation below its name."""
        import SampleData

        volume = SampleData.downloadSample("MRHead")
        logic = MonetEdgeLogic()
        if not runner.is_installed():
            logic.install()
        logic.ask()
        logic.start(volume, logic.models[0])
        node = None
        while node is None:
            slicer.app.processEvents()
            node = logic.poll()
        assert volume.GetName() in node.GetName()
        self.delayDisplay("passed")
