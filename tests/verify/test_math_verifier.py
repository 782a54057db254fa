import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.errors import UserError
from h1r.mathematics import equivalent, grade, normalise, parse_number, quick, tier_one
from h1r.mathematics.compare import compare
from h1r.mathematics.read import read
from h1r.mathematics.text import MAX_CHARS, refusal, split_top
from h1r.records import Problem
from h1r.verify import VerifierPool

EQUAL = r"""
7,425,000 | 7425000
1000.0 | 1000
10,000 | 10{,}000
\frac12 | 0.5
\dfrac{10}{4} | 5/2
1/3 | 0.333333
2x+1 | 1+2x
\sqrt{\frac{1}{n}} | \frac{1}{\sqrt{n}}
\sqrt{\frac{2}{n}} | \frac{\sqrt{2}}{\sqrt{n}}
e^{16}-1 | -1+e^{16}
3 | x=3
7 | 2+5=7
0<x<1 | (0,1)
(0,1) | 0<x<1
1,2 | 2,1
\{\sqrt2,3\} | \{3,2^{1/2}\}
(\sqrt2,3) | (2^{1/2},3)
x=1,y=2 | y=2,x=1
5, 6 | x=5 \text{ or } x=6
2 | 2\text{ apples}
\text{even} | Even
21,16 or 11 | 21, 11, and 16
\boxed{2}, \boxed{3} | \{2,3\}
\left[0, 1\right) | [0,1)
-\frac{1}{2} | \frac{-1}{2}
-\frac{1}{2} | \frac{1}{-2}
-1/2 | -0.5
\frac{\pi}{4} | \pi/4
\frac{\pi}{4} | 0.25\pi
45^\circ | 45
45^\circ | 45 \text{ degrees}
2\sqrt{3} | \sqrt{12}
2\sqrt{3} | 2*sqrt(3)
2\sqrt{3} | 2 \cdot \sqrt 3
\sqrt{3}/3 | \frac{1}{\sqrt{3}}
x^2+2x+1 | (x+1)^2
x^2 + 2x + 1 | 1 + 2x + x^2
y = 2x + 3 | 2x - y + 3 = 0
y = 2x + 3 | y - 3 = 2x
(x-1)^2 + (y+2)^2 = 9 | x^2 - 2x + y^2 + 4y - 4 = 0
\frac{x^2}{4} + \frac{y^2}{3} = 1 | 3x^2+4y^2=12
(-\infty, 2) \cup (4, \infty) | x<2 \text{ or } x>4
(-\infty,2)\cup(4,\infty) | (4,\infty)\cup(-\infty,2)
[-2,7] | -2 \le x \le 7
x \in [-2,7] | [-2, 7]
x \ge 3 | [3,\infty)
x\geq 3 | 3 \leq x
(3,\infty) | x > 3
\{1,2,3\} | 3,1,2
\{1,2,3\} | \{3, 2, 1\}
\{x \mid x > 3\} | x>3
(1,2),(3,4) | (3,4),(1,2)
(1,2) \text{ and } (3,4) | \{(1,2),(3,4)\}
x = 1, y = 2 | (1,2)
(x,y) = (1,2) | (1,2)
1 \pm \sqrt{2} | 1+\sqrt2, 1-\sqrt2
x = 1 \pm \sqrt{2} | 1 + \sqrt{2}, 1 - \sqrt{2}
\frac{1 \pm \sqrt{5}}{2} | \frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}
12 \text{ cm} | 12
12\text{ cm} | 12 cm
12\,\mathrm{cm} | 12\text{cm}
12 \text{ cm}^2 | 12\text{ square centimeters}
100 \text{ cm} | 1 \text{ m}
\$18.90 | 18.90
\$18.90 | 18.9 \text{ dollars}
\$12,500 | 12500
50\% | 0.5
50\% | 50
1{,}234{,}567 | 1234567
1,234,567 | 1 234 567
\text{(B)} | B
\textbf{(B)} 12 | B
B | (B)
B | \text{B}
\text{B} | \textbf{B}
(C) | C) 15
\text{Monday} | Monday
\text{no solution} | No solution.
\emptyset | \varnothing
\emptyset | \{\}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}
\begin{pmatrix} 1/2 \\ 3 \end{pmatrix} | \begin{pmatrix} 0.5 \\ 3 \end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \begin{array}{c} 1 \\ 2 \end{array}
3:2 | 3/2
3:2 | 6:4
2^{10} | 1024
2^{99} | 633825300114114700748351602688
10! | 3628800
\binom{10}{3} | 120
\log_2 8 | 3
\ln 2 + \ln 3 | \ln 6
\sin^2 x | 1-\cos^2 x
e^{2\ln 3} | 9
\frac{3}{4} | .75
1\frac{3}{4} | \frac{7}{4}
1 \frac34 | 1.75
0.\overline{3} | \frac13
0.1\overline{6} | 1/6
1011_2 | 1011_{2}
1011_2 | 1011
5.2 \times 10^{3} | 5200
5.2e3 | 5200
3 + 4i | 4i + 3
\frac{1}{2} + \frac{\sqrt{3}}{2} i | \frac{1+i\sqrt{3}}{2}
a^2b | ba^2
\frac{a}{b} | a/b
x | x
f(x) = x^2 | x^2
f(x)=x+1 | y=x+1
S_n = \frac{n(n+1)}{2} | \frac{n^2+n}{2}
\frac{n(n+1)}{2} | \binom{n+1}{2}
n! | n \cdot (n-1)!
2^{n+1} | 2 \cdot 2^n
\frac{1}{x-1} | -\frac{1}{1-x}
\sqrt[3]{2} | 2^{1/3}
\sqrt[3]{16} | 2\sqrt[3]{2}
|x-1| | |1-x|
\left|x\right| | |x|
\lfloor x \rfloor | \lfloor x\rfloor
x=2 | 2
x=2 \text{ or } x=3 | 2, 3
2 \text{ and } 3 | 2,3
\frac{\sqrt{6}-\sqrt{2}}{4} | \sin 15^\circ
\tan 60^\circ | \sqrt3
120^{\circ} | 120
p=3 | p = 3.0
-x^2+1 | 1-x^2
(x+1)(x-1) | x^2-1
2x(x+1) | 2x^2+2x
\frac{2}{3}\pi | \frac{2\pi}{3}
\pi r^2 | r^2 \pi
1 < x < 3 | (1,3)
x \neq 2 | (-\infty,2)\cup(2,\infty)
\mathbb{R} \setminus \{2\} | (-\infty,2)\cup(2,\infty)
\mathbb{R} | (-\infty,\infty)
(-\infty,\infty) | \text{all real numbers}
{1, 2} | \{1,2\}
\left(\frac{1}{2}, 3\right) | (0.5, 3)
A=3, B=4 | (3,4)
a = 3, b = 4 | b = 4, a = 3
a = 3, b = 4 | a=3 \text{ and } b=4
m = 4 | 4
36 \text{ square units} | 36
15 \text{ mph} | 15
2 hours | 2
2 \text{ hours} | 120 \text{ minutes}
2:30 \text{ PM} | 2:30 p.m.
\text{Yes} | yes
\text{True} | true
7\text{th} | 7th
\frac{\partial f}{\partial x} | \frac{\partial f}{\partial x}
\sum_{k=1}^{3} k | 6
\int_0^1 x dx | \frac{1}{2}
\lim_{x\to 0} \frac{\sin x}{x} | 1
e | \mathrm{e}
e^{-x} | \frac{1}{e^x}
\cos\frac{\pi}{3} | \frac12
\arctan 1 | \frac{\pi}{4}
\frac{4\pi\sqrt{3}}{9} | \frac{4\sqrt{3}\pi}{9}
\text{east} | East
6 - 5i | -5i+6
x^{\frac{1}{2}} | \sqrt{x}
-4, 4 | \pm 4
\pm 4 | 4, -4
\pm\frac{1}{2} | \frac12,-\frac12
x_1 = 2, x_2 = 3 | 2,3
\{ (1,2) \} | (1,2)
[1,2] \cup [3,4] | [3,4]\cup[1,2]
\frac{1}{3}x | \frac{x}{3}
3.0 | 3
1.50 | \frac{3}{2}
-(x-2) | 2-x
2a+3b | 3b + 2a
C | \text{(C)}
(D)\ 24 | D
\boxed{12} | 12
12. | 12
12, | 12
=12 | 12
\approx 3.14 | 3.14
\$\frac{1}{2}\$ | \frac12
\dfrac{7}{12} | 7/12
\frac{7}{12}\text{ ft} | \frac{7}{12}
\frac{1}{2}\% | 0.5\%
\text{5 apples} | 5
1 \leq |z| \leq \frac{3}{2} | \left[-\frac{3}{2}, -1\right] \cup \left[1, \frac{3}{2}\right]
|x-1| < 3 | (-2,4)
|x| > 2 | x<-2 \text{ or } x>2
-1 < 2x+3 \le 7 | (-2, 2]
1-x < 3 | x > -2
x = \frac{4}{3} \approx 1.33 | \frac43
x = \frac{4}{3} \approx 1.33 | 1.33
p=5,q=2;p=7,q=2 | (5,2),(7,2)
x=1,y=2 \text{ or } x=3,y=4 | (3,4),(1,2)
A:B=1 | 1
$x = \boxed{1}$ and $y = \boxed{2}$ | 1, 2
100 \text{ m}^2 | 100m²
130 \text{ trees} - 39 \text{ trees} = 91 \text{ trees} | 91
6p \text{ dollars} | 6p
1 1/2 | \frac{3}{2}
\langle 1,2 \rangle | (1,2)
f(n)=n | f(n)=n \text{ for all positive integers } n
x=2k\pi, k \in \mathbb{Z} | x = 2\pi k
12\text{ and }13 | \"$12 $ and $13 $\"
\int x dx | \frac{x^2}{2}
\sum_{k=1}^n k | \frac{n(n+1)}{2}
\max(a,b) | \max(b,a)
3.89e-10 | 3.89e-10.
x = \frac{n\pi}{10}, \quad n \in \mathbb{Z} | x = \frac{n\pi}{10}, \quad n \in \mathbb{Z}.
\text{about } 5 | 5
\text{The answer is } 5 | 5
5 \text{ million} | 5000000
5 \text{ million dollars} | \$5,000,000
2.5 million | 2,500,000
\frac{1}{2} \text{ million} | 500000
\frac{1}{2} | 0.5000000
1\,000\,000 | 10^6
[1,2] | 1\le x\le 2
5\% | 0.05
\frac{5}{100} | 5\%
1.5 \times 10^{-3} | 0.0015
\left(-\infty,0\right]\cup\left[1,\infty\right) | x\le 0 \text{ or } x\ge 1
A,C | C,A
x=\pm 2 | \{-2,2\}
3\text{ km} | 3000\text{ m}
60\text{ km/h} | 60 \frac{\text{km}}{\text{h}}
90^\circ | \frac{\pi}{2}
\frac{\sqrt{3}+1}{2} | 1.3660254
\cot x | \frac{\cos x}{\sin x}
\log_{10} 100 | 2
\arcsin\frac{1}{2} | \frac{\pi}{6}
\sin^{-1}(1/2) | \pi/6
{5 \choose 2} | 10
{1 \over 2} | 1/2
\mathbb{R}^+ | (0,\infty)
1/2/3 | \frac16
1e-3 | 0.001
0.\bar{3} | \frac{1}{3}
0.\dot{3} | \frac{1}{3}
0.\overline{142857} | \frac17
\frac{22}{7} | 3\frac{1}{7}
e^{i\pi}+1 | 0
\sqrt{-1} | i
\ln(e^2) | 2
|{-5}| | 5
\lceil 2.1 \rceil | 3
1:2:3 | 2:4:6
y=\frac{1}{2}x | x-2y=0
x^2+y^2=1 | y^2+x^2-1=0
25\text{ cents} | \$0.25
\begin{bmatrix}1\\2\end{bmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
\left(\begin{array}{cc}1&2\\3&4\end{array}\right) | \begin{pmatrix}1&2\\3&4\end{pmatrix}
\vec{v} = (1,2) | (1,2)
f^{-1}(x)=x+1 | x+1
7.0 \times 10^{2} | 700
1{,}000.50 | 1000.5
x² | x^2
√2 | \sqrt{2}
¾ | 3/4
⅓ | \frac13
１２ | 12
\color{red}{5} | 5
\textcolor{red}{5} | 5
\underline{5} | 5
\nicefrac{1}{2} | 1/2
\sqrt[2]{2} | \sqrt2
\exp(2) | e^2
\sin(x)^2 | \sin^2 x
a_n = 2n+1 | 2n+1
\frac{3}{4}=0.75 | 0.75
(0,1)\cup\{1\} | (0,1]
[1,2]\cup[2,3] | [1,3]
(1,3)\cup(2,4) | (1,4)
x>0 \text{ and } x<1 | (0,1)
x<1 \text{ and } x>0 | 0<x<1
x>0, x\neq 1 | (0,1)\cup(1,\infty)
0<x<3, x\neq 1 | (0,1)\cup(1,3)
(-\infty,\infty)\setminus\{0\} | x\neq0
x\in\mathbb{R}, x\ne 2 | (-\infty,2)\cup(2,\infty)
\{5\}\cup\{6\} | \{5,6\}
1+x=2 | x=1
1=x | x=1
\dfrac{\pi}{3}\text{ radians} | \frac{\pi}{3}
9.8\text{ m/s}^2 | 9.8 m/s^2
\frac{-3}{-4} | \frac34
-\frac{-3}{4} | 0.75
2\cdot 3\cdot 5 | 30
+5 | 5
--5 | 5
\left( 3 , -2 \right) | (3,-2)
\{ 2 , 3 \} | \{ 3,2\}
x \geqslant 2 | [2,\infty)
2 \leq x | x \geq 2
\text{none} | None
1, 2, \text{ and } 3 | 1,2,3
5\ \text{cm} | 5cm
\mathbf{5} | 5
$5$ | 5
\(5\) | 5
5\, | 5
{}5 | 5
\displaystyle\frac12 | 1/2
3-\sqrt{5} | -\sqrt5+3
\frac{2}{\sqrt{2}} | \sqrt2
\log_3 9 | 2
2^{\log_2 5} | 5
\sqrt{2}+\sqrt{3} | \sqrt{5+2\sqrt{6}}
\cos 36^\circ | \frac{1+\sqrt5}{4}
0 | -0
0.0 | 0
\frac{0}{5} | 0
x=0 | 0
1\frac12 \text{ hours} | 90 \text{ minutes}
3:05 \text{ p.m.} | 3:05 PM
II | \text{II}
Q = 5 | 5
10^{-2} | 1\%
\binom{4}{2}\cdot 2 | 12
a=1,\ b=2 | b=2,\ a=1
2:30 PM | 2:30 p.m.
2:30 PM | 2:30 \text{ p.m.}
\left[\begin{array}{c}1\\2\end{array}\right] | \begin{pmatrix}1\\2\end{pmatrix}
(x,y)=(1,2) | (1,2)
(x,y)=(1,2) | x=1,y=2
(x,y)=(1,2) | (x,y)=(1,2)
(x,y)=(1,2),(3,4) | (3,4),(1,2)
(x,y)=(1,2) \text{ or } (3,4) | (1,2),(3,4)
5 \text{ cm squared} | 5 \text{ cm}^2
\pi | 180^\circ
\frac{\pi}{4} | 45 \text{ degrees}
0.1\bar{6} | 1/6
0.\dot3 | 1/3
x\in\mathbb{R},\ x\ne2 | \mathbb{R}\setminus\{2\}
x<1, x>3 | (-\infty,1)\cup(3,\infty)
x<1 \text{ and } x>3 | (-\infty,1)\cup(3,\infty)
x \ge 0, x \ne 1 | [0,1)\cup(1,\infty)
x>0, y>0 | y>0, x>0
-1<x<1, x\neq 0 | (-1,0)\cup(0,1)
5\text{ hundred} | 500
2\frac{1}{2} \text{ dozen} | 2.5 \text{ dozen}
\{\{1\},\{2\}\} | \{\{2\},\{1\}\}
\{1\} | 1
\{1\},\{2\} | \{2\},\{1\}
\{(1,2)\} | (1,2)
x=1 \text{ or } x=2 | \{1,2\}
5\text{ ft } | 5 feet
5 \frac{\text{m}}{\text{s}^2} | 5 \text{ m/s}^2
\text{ten} | \text{Ten}
15 \text{ one-dollar bills} | 15
\int_0^1 x\,dx | \int_0^1 t\,dt
\lim_{x \to 0} \frac{\sin x}{x} | 1
\sum_{k=1}^{3} k^2 | 14
(0,1)\cup(1,2)\cup\{1\} | (0,2)
(-\infty,0)\cup[0,\infty) | \mathbb{R}
x \le 2 \text{ or } x \ge 1 | \mathbb{R}
f(x)=2x | f(t)=2t
f(x)=ax+b | f(t)=at+b
f(x)=5 | f(t)=5
f(x,y)=x-y | f(y,x)=y-x
f(\theta)=\sin\theta | f(x)=\sin x
f(x)=\{x,1\} | f(t)=\{1,t\}
f(x)=2x, g(x)=3x | g(t)=3t, f(t)=2t
f(x)=2x \text{ or } f(x)=-2x | f(t)=-2t \text{ or } f(t)=2t
(x=1,y=2) | (y=2,x=1)
(x=1,y=2) | (1,2)
{a \over {b \over c}} | \frac{ac}{b}
{{a \over b} \over c} | \frac{a}{bc}
{1+\sqrt{5} \over 2} | \frac{1+\sqrt5}{2}
\sqrt{3} \over 2 | \frac{\sqrt3}{2}
{n+1 \choose {k \over 2}} | \binom{n+1}{k/2}
2{1 \over 2} | 5/2
e^{x \over 2} | \sqrt{e^x}
\left\{ {1 \over \sqrt2}, 3 \right\} | \{3, \frac{\sqrt2}{2}\}
180^\circ | \pi \text{ radians}
\frac{360}{\pi}^\circ | 2 \text{ rad}
\pi | \pi \text{ rad}
5 \text{ rad/s} | 5 \text{ s}^{-1}
\text{A and C} | A, C
\text{A, B, and D} | D,B,A
\text{(A) and (C)} | \{A,C\}
(A), (C) | C, A
(A) 12, (C) 15 | A,C
\text{I and III} | III, I
(D) \text{Both (A) and (B)} | D
(B) x | x
D. it can't be A or B | D
(D) not enough information | D
\sqrt{2} \approx 1.414 | \sqrt{2}
\sqrt{2} \approx 1.414 | 1.414
\frac{22}{7} \approx 3.14 | x = \frac{22}{7}
\{x \in \mathbb{R} : x > 3\} | (3,\infty)
\{x \in \mathbb{R} \mid x \neq 0\} | x \ne 0
\{x \mid x \in \mathbb{R}, x \ne 2\} | \mathbb{R} \setminus \{2\}
\text{Total area} = 5 | 5
\text{Total area} = 5 | \text{total area} = 5
\text{Area of } ABC = 5 | 5
\text{Length of A} = 5, \text{Length of B} = 6 | 5,6
\text{Therefore, } x=5 | x=5
So x = 5 | 5
(C) = 5 | C
5 \text{ cm2} | 5 \text{ cm}^2
5 kg m / s | 5 \text{ kg m/s}
10 \text{ inches tall} | 10 \text{ inches}
2A_{16} | 2A_16
\text{Team A} | \text{the team A}
"""
UNEQUAL = r"""
y=2x+1 | y=2x+3
x=1 | y=1
1,2,3 | 2,3,4
\{1,2,3\} | \{1,2\}
\{1,2\} | \{1,2,3\}
1,2 | 1
1 | 1,2
3,4 | 3,3,4
5 | 6 or 5
= | x
x= | y=
1<2 | 3<4
2=2 | 3=3
x=x | y=y
7 | 8=7
7 | 3+5=7
(1,2) | (2,1)
(1,2) | 2,1
(3,3) | (5,5)
(1,2) | [1,2]
(1,2) | \{1,2\}
even | odd
no | on
12 | 1 2
1/3 | 0.33
|x| | x
\sqrt{x^2} | x
12 | -12
12 m | 12 cm
12 \text{ m} | 12 \text{ cm}
2 \text{ hours} | 2 \text{ minutes}
3 \text{ apples} | 3 \text{ oranges}
x > 3 | x \ge 3
x > 3 | x < 3
(3,\infty) | [3,\infty)
(1,2) | (1,3)
1,2,3 | 1,2
y=2x | y=x
x^2 | x^3
x^2 | 2x
\sin x | \cos x
1 \pm \sqrt{2} | 1+\sqrt{2}
\frac12 | \frac13
\frac12 | 0.51
1/3 | 0.333
\pi | 3.14
\sqrt{2} | 1.414
2^{99} | 2^{98}
10! | 9!
B | C
(B) | (C)
\text{odd} | \text{even}
Monday | Tuesday
yes | no
12:00 | 1:00
3:2 | 2:3
1011_2 | 1011_3
50\% | 0.05
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}
\begin{pmatrix} 1 & 2 \end{pmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
3+4i | 3-4i
a^2b | ab^2
f(x)=x+1 | f(x)=x-1
2x+z=1 | 1
7=11a+c | 11a+c
5 | \text{five apples}
5 | x
5 | -5
5 | 5x
5 | 5,6
5 | (5,6)
5 | \{5,6\}
\emptyset | 0
\emptyset | \{0\}
0 | \text{none}
\infty | -\infty
\infty | 0
(-\infty,2) | (-\infty,2]
1<x<3 | 1<x<4
(1,2),(3,4) | (1,2),(3,5)
(1,2,3) | (1,2)
x \neq 2 | x = 2
e^{16} | e^{15}
e^{\pi\sqrt{163}} | 262537412640768744
\log_2 3 | \log_3 2
\ln 2 | \log 2
n! | (n-1)!
100 | 1000
1,000 | 1
0.5 | 5
1e3 | 1
x=1,y=2 | x=2,y=1
a=3,b=4 | 4,3
21 | 2,1
x+y | x-y
A | B
xy | x+y
\frac{a}{b} | \frac{b}{a}
2^{n} | n^2
45^\circ | 46^\circ
\text{Alice} | \text{Bob}
(x+1)^2 | x^2+1
\sqrt{a+b} | \sqrt{a}+\sqrt{b}
1.0001 | 1
0.0000001 | 0.0000002
3 \cdot 10^{-9} | 4 \cdot 10^{-9}
10000001 | 10000002
123456789.1 | 123456789.2
\text{all real numbers} | \emptyset
5 \text{ cm}^2 | 5 \text{ cm}^3
7 = 7 | 8 = 8
x = x | y = y
7 | 7 = 8
B) 164 | B) 2
n \text{ even} | n
x \text{ is odd} | x
|x-1| < 3 | (-4,2)
|x| > 2 | x > 2
1-x < 3 | x < -2
x = 5 \approx 7 | 7
p=5,q=2;p=7,q=2 | (2,5),(2,7)
f(x)=0 \text{ for all } x \text{ and } f(x)=x^2 \text{ for all } x | f(x)=0
1 1/2 | 1/2
\bigcup_{k=1}^{9} \{k\} | \bigcup_{k=1}^{8} \{k\}+1
\gcd(p,q) | \gcd(p,r)
\int_0^1 A^2 dx | \int_0^1 a dx
\begin{cases} 1 & x>0\\ 0 & x<0\end{cases} | \begin{cases} 1 & x>0\\ 2 & x<0\end{cases}
f'(x) | f(x)
\frac{dy}{dx} | \frac{dx}{dy}
\frac{\partial f}{\partial x} | \frac{\partial f}{\partial y}
2 \oplus 3 | 2 \ominus 3
\iint_D 1 dA | \iint_E 1 dA
x^\circ | x
3 \mid n | 3 \mid m
a \equiv 1 \pmod{3} | a \equiv 1 \pmod{4}
\sum_{k=1}^n k | \sum_{k=1}^n k^2
\max(a,b) | \min(a,b)
\$5 + \$6 | 56
2 | \text{not } 2
4,6 | \text{not } 4,6
2 | 2 \text{ but not the answer}
5 | \text{more than } 5
5 | \text{at least } 5
5 | 5 \text{ million}
5 | 5 \text{ is wrong}
5 | 5 \text{ (or 6)}
5 | 5 \text{ or something else}
5 | 5 \text{ feet or more}
5 | \text{maybe } 5
5 | 5...
1,2 | 1,2,...
5 | 5 \text{ apples and } 6 \text{ oranges}
5 | {5}{6}
5 | 5\text{6}
5 | 5 \pm 1
5 | \max(5,6)
(1,2) | (1,2]
\{1,2\} | (1,2)
x>2 | x\ge2
10\text{ cm} | 10\text{ cm}^2
3\text{ hours} | 3\text{ miles}
\emptyset | \{\emptyset\}
\{\{1\},2\} | \{1,\{2\}\}
-1 | |-1|
i | -i
e | E
\log x | \ln x
0.999999 | 1
12345678 | 12345679
\frac{1}{0} | \infty
1/0 | 2/0
\text{A or B} | A
A, B | A
5\text{ or }6 | 5
5;6 | 5
5\quad 6 | 56
5\ 6 | 56
5~6 | 56
5\,6 | 56
1,00 | 100
x | X
a | \alpha
\pi | 22/7
\text{5 or 6} | 5
\ne 5 | 5
>5 | 5
<5 | 5
\ge 5 | 5
\sim 5 | 5
\text{negative }5 | 5
\text{minus }5 | 5
5\text{ below zero} | 5
5\text{ factorial} | 5
5\text{ squared} | 5
5\text{ hundred} | 5
5\text{ plus }3 | 5
5\text{ minus }3 | 5
5\text{ times }10 | 5
5\text{ halves} | 5
5\text{ thirds} | 5
5\text{ divided by }2 | 5
5\text{ over }2 | 5
5\text{ cubed} | 5
5\text{ to the power }2 | 5
5\text{ mod }7 | 12
5 + | 5
5^ | 5
(5 | 5
5) | 5
10_2 | 10_{10}
1:2 | 2
\text{north} | \text{north-east}
-\infty | \infty
(-2)^2 | -2^2
2x | x^2
x=1, x=2 | x=1
x=1,y=2 | x=1
(x,y)=(1,2) | (y,x)=(1,2)
f(1)=2 | f(2)=2
x^{2}+1 | x^{2+1}
\sqrt{x+1} | \sqrt{x}+1
\sin^{-1} x | \frac{1}{\sin x}
\frac{1}{2}x | \frac{1}{2x}
5 % 6 | 5
5\\6 | 5
5 \text{ if } x>0 | 5
x>0 \text{ and } x<1 | x>0 \text{ or } x<1
(1,2)\cup(2,3) | (1,3)
[1,2]\cup[3,4] | [1,4]
[1,3] | [3,1]
\{1,2\} | [1,2]
50\% | 5000
3 \text{ m} | 3 \text{ s}
3 \text{ kg} | 3 \text{ g}
1 \text{ m}^2 | 100 \text{ cm}^2
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{vmatrix}1&2\\3&4\end{vmatrix}
x+1 | x-1
x^2=4 | x=2
\sqrt{4} | \pm 2
x=5 | x\ne5
5\text{ nine} | 5
\frac{5}{\text{something}} | 5
5\text{ or more} | 5
\text{between } 5 \text{ and } 6 | 5,6
\text{up to } 5 | 5
\text{almost } 5 | 5
\text{half of } 5 | 5
\text{twice } 5 | 5
5 \text{ less than } 8 | 5
\text{None of } 5 | 5
\neg 5 | 5
\sqrt 5 | 5
\bar{5} | 5
5' | 5
5'' | 5
5^{*} | 5
\overline{5} | 5
\cancel{5} | 5
\not{5} | 5
5i | 5
5e | 5
5\pi | 5
5x | 5
5!! | 120
P(A)=0.5 | P(B)=0.5
x \to 5 | 5
5 \Rightarrow 6 | 5
5 \to 6 | 6
2^{3^2} | 64
(0,1) | (0,1)\cup\{2\}
\mathbb{Z} | \mathbb{R}
\mathbb{N} | \mathbb{Z}
\text{all integers} | \text{all real numbers}
\text{all real numbers except } 2 | \mathbb{R}
\mathbb{R} \setminus \{2\} | \mathbb{R} \setminus \{3\}
x=1 \text{ only} | x=2
5\text{ not} | 5
\text{not enough information} | 5
\text{True} | \text{False}
\text{12} | \text{21}
1.0.0 | 1
1..5 | 1.5
5-6 | 5
5/6 | 5
5 - - 6 | 11.5
0x10 | 16
1_000 | 1000
1'000 | 100
\infty | \infty^2
\frac{1}{3} | 33\%
33.3\% | \frac{1}{3}
\sum_{k=1}^{3} k | 5
\int_0^1 x dx | 1
\int_0^1 x dx; 7 | 7
\int_0^1 x dx \quad 7 | 7
\int_0^1 x dx \ne 7 | 7
\sum_{k=1}^{3} k = 7 | 7
\sum_{k=1}^{3} k \le 7 | 7
7 \lim_{x\to 0} x | 7
7, \int_0^1 x dx | 7
\int_0^1 x dx \in 7 | 7
7 \text{ } \int_0^1 x dx | 7
\lim_{x\to 7} | 7
\begin{pmatrix}1\end{pmatrix} 7 | 7
\max(5,6) 7 | 7
\int_0^1 x dx, \int_0^1 x dx | \int_0^1 x dx
\sum_{k=1}^{3} k \to 7 | 7
x>0, x<1 | x>0, x<2
x \ge 0, x \ne 1 | [0,\infty)
x>0, y>0 | x>0, x>0
x>0, y<1 | x<1, x>0
(x,y)=(1,2) | (x,y)=(2,1)
(x,y)=(1,2) | 2,1
(x,y)=(1,2) | [1,2]
(x,y)=(1,2) | (1,2]
\{\{1,2\}\} | \{1,\{2\}\}
\{1,2\} | \{\{1\},\{2\}\}
\{(1,2),3\} | \{(2,1),3\}
(-\infty,0)\cup(0,\infty) | \mathbb{R}
(0,1)\cup(1,2) | (0,2)
[0,1]\cup(1,2) | [0,2]
\mathbb{R}^+ | [0,\infty)
\mathbb{R}^+ | \mathbb{R}
\mathbb{R}^2 | \mathbb{R}
180^\circ | 2\pi
1^\circ | \pi
5\text{ and a half} | 5
5\text{ over par} | 6
{1 \over 2} | {2 \over 1}
5\text{ below} | 5
3:05 PM | 3:05 AM
3:05 PM | 3:05
3:05 | 3:50
5 \text{ (not } 6) | 5
\textcolor{red}{5} | \textcolor{red}{6}
\color{red}{5}6 | 5
\underline{5}6 | 5
f(x)=2x | f(t)=2x
f(x)=2x | f(t)=3t
f(x)=2x | g(t)=2t
f(x)=ax | f(a)=xa
f(x,y)=x-y | f(y,x)=x-y
f(x)=x | f(x,y)=x
f(x)=\{x,1\} | f(t)=\{x,1\}
f(x)=\int_0^x e^{s^2} ds | f(t)=\int_0^x e^{s^2} ds
f(x)=2x, g(x)=3x | f(t)=2x, g(t)=3x
f(e)=2 | f(i)=2
(x=1,y=2) | (y=1,x=2)
(x=1,y=2) | (a=1,b=2)
{a \over {b \over c}} | \frac{a}{bc}
{1+\sqrt{5} \over 2} | 1+\frac{\sqrt5}{2}
{1 \over 2 \over 3} | \frac16
{1 \over 2 \over 3} | \frac32
{1 \over 2 | \frac12
\over | 1
180^\circ | 180 \text{ rad}
\pi^\circ | \pi
\pi \text{ rad} | \pi \text{ degrees}
3.14 \text{ rad} | 180^\circ
5 \text{ rad/s} | 5 \text{ m/s}
\text{A and C} | A, B
\text{A and C} | A
\text{A or C} | A, C
(A) or (C) | A, C
\text{A, B, and D} | A,B
(A), (B), (C), (D) | A
(A) and (C) | A
(A) or (B) | A
(A)(B)(C)(D) | A
(A) 5, (B) 6 | A
(A) 5 (B) 6 | (A) 5
A. B. C. D. | A
A) or B) | A
(A) or B | A
A: 5, B: 6 | A
(A) \text{ is wrong} | A
(A) B | B
(C) or 5 | C
\sqrt{2} \approx 1.5 | \sqrt{2}
0.35 \approx 0 | 0
\sqrt{2} \approx 1.42 | 1.42
\sqrt{2} \approx 1.414 | 1.4
\{x \in \mathbb{R} : x > 3\} | [3,\infty)
\{x \in \mathbb{R} \mid x \neq 0\} | \mathbb{R}
\text{not } x=5 | 5
\text{The sum is not } S=5 | 5
\text{Length is less than} = 5 | 5
\text{Total area} = 5 | \text{Total length} = 5
\text{Length of A} = 5, \text{Length of B} = 6 | 6,5
\text{Therefore, } x=5 | x=6
\text{no}  \text{rth} | north
(C) \ne 5 | C
(C) \text{ but maybe } 5 | C
42\text{6+9i} | 42
144\text{p - q} | 144
90^\circ x | 90^\circ
5 \text{ kg} x | 5 \text{ kg}
9_6 | 9
12_2 | 12
\text{Team A} | \text{Team}
\text{Team A} | \text{Team B}
"""


def pairs(table: str) -> list[tuple[str, str]]:
    return [(left, right) for left, right in (line.split(" | ") for line in table.strip().splitlines())]


@pytest.mark.parametrize(("gold", "answer"), pairs(EQUAL))
def test_equal_answers_match_either_way_round(gold, answer):
    assert equivalent(gold, answer)
    assert equivalent(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), pairs(UNEQUAL))
def test_unequal_answers_match_neither_way_round(gold, answer):
    assert not equivalent(gold, answer)
    assert not equivalent(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), [("", ""), ("5", ""), ("", "5"), ("=", "="), ("$$", "$$")])
def test_nothing_equals_an_empty_answer(gold, answer):
    assert not equivalent(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("(0,1)", "0<x<1"),
        ("e^{16}-1", "-1+e^{16}"),
        (r"\sqrt{\frac{1}{n}}", r"\frac{1}{\sqrt{n}}"),
        (r"\{1,2,3\}", r"\{1,2\}"),
        ("y=2x+1", "y=2x+3"),
        ("1,2,3", "2,3,4"),
        ("=", "x"),
    ],
)
def test_known_failures_of_others_are_decided_without_them(gold, answer):
    assert tier_one(gold, answer) is not None


def test_what_tier_one_cannot_read_is_left_open():
    assert tier_one(r"\int_0^1 x\,dx", r"\frac{1}{2}") is None
    assert quick(Problem("p", "", r"\frac{1}{2}"), r"\boxed{\int_0^1 x\,dx}") is None


def test_decimals_of_the_problem_decide_how_close_is_equal():
    problem = Problem("p", "", r"(\frac{3}{5},\frac{8}{3}]", metadata={"decimals": 2})
    assert grade(problem, r"\boxed{(0.6,2.6667]}").reward == 1.0
    assert grade(problem, r"\boxed{(0.6,2.6]}").reward == 0.0
    assert grade(Problem("p", "", problem.answer), r"\boxed{(0.6,2.6667]}").reward == 0.0


@pytest.mark.parametrize(
    ("reference", "options", "right", "wrong"),
    [
        ("1350", {"tolerance": 0.05}, "1300", "1200"),
        (r"1350 \text{ m}", {"tolerance": 0.05}, r"1.4 \text{ km}", r"1.5 \text{ km}"),
        (r"\{1000, 3\}", {"tolerance": 0.01}, r"\{3, 1005\}", r"\{3, 1050\}"),
        ("1,2,3", {"ordered": True}, "1,2,3", "3,2,1"),
        (r"5 \text{ m}", {"units": "required"}, r"500 \text{ cm}", "5"),
        (r"5 \text{ m}", {"units": "ignored"}, r"5 \text{ apples}", "6"),
        ("2", {"accept": [r"\text{two}", "II"]}, "Two", "three"),
        ("2", {"accept": [r"\int_0^2 x\,dx"]}, r"\int_0^2 y\,dy", "3"),
    ],
)
def test_the_options_of_a_problem_are_kept(reference, options, right, wrong):
    problem = Problem("p", "", reference, metadata=options)
    assert grade(problem, rf"\boxed{{{right}}}").reward == 1.0
    assert grade(problem, rf"\boxed{{{wrong}}}").reward == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"decimals": "2"},
        {"decimals": -1},
        {"tolerance": 5},
        {"tolerance": True},
        {"ordered": "yes"},
        {"units": "on"},
        {"accept": "2"},
    ],
)
def test_an_option_that_cannot_be_is_the_users_mistake_whatever_the_answer(options):
    (key,) = options
    with VerifierPool() as pool:
        for text in (r"\boxed{2}", "nothing boxed"):
            with pytest.raises(UserError, match=f"problem `p`: metadata `{key}` is"):
                pool.verify_many([Problem("p", "", "2", metadata=options)], [text])


def test_one_unstated_unit_is_the_stated_one_and_two_stated_ones_must_agree():
    assert equivalent(r"12 \text{ m}", "12")
    assert equivalent(r"12 \text{ m}", "1200 cm")
    assert not equivalent(r"12 \text{ m}", "12 cm")


def test_a_list_of_guesses_is_no_answer():
    problem = Problem("p", "", "2")
    assert grade(problem, r"\boxed{1}, \boxed{2} or \boxed{3}").reward == 0.0
    assert grade(problem, r"\boxed{1,2,3}").reward == 0.0


FRAGMENTS = [
    *(r"\frac{", r"\sqrt", r"\text{", r"\begin{pmatrix}", r"\end{pmatrix}", "{", "}", "(", ")", "[", "]", r"\{", r"\}"),
    *("^", "_", "!", "1", "9", "x", ",", ";", "=", "<", r"\pm", r"\cup", " and ", "cm", "&", "|", ":", "%", " "),
]
ANSWERS = st.sampled_from([side for table in (EQUAL, UNEQUAL) for pair in pairs(table) for side in pair])


@settings(max_examples=400, deadline=None)
@given(ANSWERS, ANSWERS)
def test_comparison_is_symmetric(left, right):
    assert compare(read(left), read(right)) == compare(read(right), read(left))


@given(ANSWERS)
def test_comparison_is_reflexive(answer):
    assert tier_one(answer, answer) is (answer not in ("", "="))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(FRAGMENTS),
        max_size=40,
    ).map("".join)
)
def test_tier_one_never_raises(text):
    for gold in ("5", r"\{1,2\}", "y=2x+1", "[0,1)", r"\begin{pmatrix}1&2\end{pmatrix}"):
        assert tier_one(gold, text) in (True, False, None)


@pytest.mark.parametrize(
    "text",
    ["5" * (MAX_CHARS + 1), "(" * 100, "9" * 1_001, "x^{123456}", "x" + "!" * 100, "^" * 200],
)
def test_hostile_texts_are_refused_before_any_parser(text):
    assert refusal(text)
    assert tier_one("5", text) is False


def test_choices_of_choices_are_no_answer():
    nested = "A) " * 500 + "5"
    assert tier_one("5", nested) is False
    assert tier_one("A) 5", nested) is False


@pytest.mark.parametrize(
    ("text", "value"),
    [("-1.50", "-3/2"), (".5", "1/2"), ("+3/6", "1/2"), (r"-\frac{-1}{2}", "1/2"), ("1,000", "1000")],
)
def test_numbers_parse_exactly(text, value):
    number = parse_number(text)
    assert number is not None
    assert str(number[0]) == value


@pytest.mark.parametrize("text", ["", ".", "1/0", "0,5", "1e9", "10**10", "1_000", "½", "--1", "1,00"])
def test_what_is_no_plain_number_is_left_alone(text):
    assert parse_number(text) is None


def test_lists_split_at_their_own_commas_only():
    assert split_top("1,(2,3)", ",") == ["1", "(2,3)"]
    assert split_top(r"\{1,2\},[3,4)", ",") == [r"\{1,2\}", "[3,4)"]
    assert split_top("1,2)", ",") == ["1,2)"]
    assert split_top(r"\begin{pmatrix}1,2\end{pmatrix},3", ",") == [r"\begin{pmatrix}1,2\end{pmatrix}", "3"]


def test_normalisation_keeps_the_blank_that_separates_words():
    assert normalise(r" \text{two  words} , 1 2 ") == "two words,1 2"
