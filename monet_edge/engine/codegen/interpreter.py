"""The interpreter of a program, in LLVM IR: it goes down a thread's steps and calls each one's kernel.

A kernel is called as Numba compiles it, (result, exception, step) -> status. A step that threads share has a state: 0 while it
is to be done, 1 when a thread has taken it, 2 when it is done; whoever finds another than 0 passes it by. It is taken when all
steps that it depends on are done. `run` looks 200,000 times whether they are, up to half a millisecond, and then gives up
rather than keep a core busy whose other thread may not be running: it returns the index of the step, which is ``end`` when all
steps are behind it. The caller yields and goes on from there.
"""

from __future__ import annotations

from .step import STEP, offset

IR = f"""
define i64 @run(i64 %first, i64 %begin, i64 %end) {{
entry:
  %result = alloca ptr
  %exception = alloca ptr
  br label %head
head:
  %i = phi i64 [%begin, %entry], [%j, %next]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %body, label %stop
body:
  %offset = mul i64 %i, {STEP.itemsize}
  %address = add i64 %first, %offset
  %step = inttoptr i64 %address to ptr
  %state_at = getelementptr i8, ptr %step, i64 {offset("state")}
  %mine = load ptr, ptr %state_at
  %shared = icmp ne ptr %mine, null
  br i1 %shared, label %read, label %take
read:
  %dependencies_at = getelementptr i8, ptr %step, i64 {offset("dependencies")}
  %count_at = getelementptr i8, ptr %step, i64 {offset("dependency_count")}
  %dependencies = load ptr, ptr %dependencies_at
  %count = load i64, ptr %count_at
  br label %look
look:
  %looks = phi i64 [0, %read], [%looked, %again]
  %seen = load atomic i64, ptr %mine acquire, align 8
  %open = icmp eq i64 %seen, 0
  br i1 %open, label %check, label %next
check:
  %n = phi i64 [0, %look], [%met, %made]
  %all = icmp eq i64 %n, %count
  br i1 %all, label %exchange, label %ask
ask:
  %dependency = getelementptr i64, ptr %dependencies, i64 %n
  %state = load atomic i64, ptr %dependency acquire, align 8
  %ready = icmp eq i64 %state, 2
  br i1 %ready, label %made, label %again
made:
  %met = add i64 %n, 1
  br label %check
again:
  %looked = add i64 %looks, 1
  %patient = icmp slt i64 %looked, 200000
  br i1 %patient, label %look, label %stop
exchange:
  %found = cmpxchg ptr %mine, i64 0, i64 1 seq_cst monotonic
  %free = extractvalue {{ i64, i1 }} %found, 1
  br i1 %free, label %take, label %next
take:
  %kernel = load ptr, ptr %step
  %status = call i32 %kernel(ptr %result, ptr %exception, ptr %step)
  br i1 %shared, label %tell, label %next
tell:
  store atomic i64 2, ptr %mine release, align 8
  br label %next
next:
  %j = add i64 %i, 1
  br label %head
stop:
  ret i64 %i
}}
"""
