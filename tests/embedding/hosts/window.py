"""A window of Qt's, whose main loop goes on while processes run; an offscreen platform shows it nowhere."""

import signal
import sys
import threading

import leftovers  # noqa: F401 - before Treadle
from PySide6.QtCore import QThread, QTimer, Signal
from PySide6.QtWidgets import QApplication, QLabel, QPushButton, QVBoxLayout, QWidget
from work import Double

from treadle.engine import default_engine, run, submit


class Blocks(QThread):
    """A thread of Qt's, which may block."""

    done = Signal(int)

    def run(self):
        self.done.emit(run(Double, n=21)['n'])


class Window(QWidget):
    """A button that starts a process, and a label that shows the result."""

    ended = Signal(object)

    def __init__(self):
        super().__init__()
        self.shown = []
        self.button, self.label = QPushButton('Double'), QLabel('-')
        layout = QVBoxLayout(self)
        layout.addWidget(self.button)
        layout.addWidget(self.label)
        self.button.clicked.connect(self.start)
        self.ended.connect(self.show_end)
        self.blocks = Blocks()
        self.blocks.done.connect(self.show_number)

    def start(self):
        """Submit; the future's callback runs on a thread of Treadle's, and a signal brings it to the main loop."""
        default_engine().future(submit(Double, n=4)).add_done_callback(self.ended.emit)

    def show_end(self, future):
        self.show_number(future.result().outputs.n)
        self.blocks.start()

    def show_number(self, number):
        assert threading.current_thread() is threading.main_thread()
        self.label.setText(str(number))
        self.shown.append(number)
        if len(self.shown) == 2:
            self.shown.append(run(Double, n=5)['n'])  # in the main loop itself, which stands still meanwhile
            self.blocks.wait()
            self.close()  # the last window, hence the end of the loop


application = QApplication([])
window = Window()
window.show()
if sys.argv[1] == 'click':
    QTimer.singleShot(0, window.button.click)
else:
    # Python's signal handlers run when Python code does, so some has to, now and then.
    signal.signal(signal.SIGINT, lambda *_: application.quit())
    ticks = QTimer()
    ticks.timeout.connect(lambda: None)
    ticks.start(50)
    default_engine()
    QTimer.singleShot(0, lambda: print('shown', flush=True))
code = application.exec()
print(window.shown)
sys.exit(code)
